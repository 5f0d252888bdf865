//! Taking away the pipes that Linux gives an ordinary user.

use super::lab::Lab;
use super::process::Process;

/// Makes pipes, large ones and then small ones, until it is refused larger than the smallest (`pipe-user-pages-soft` in
/// pipe(7)), and keeps them. 1031 is F_SETPIPE_SZ.
const HOARD: &str = r#"
$| = 1;
my @kept;
for my $size (1 << 20, 1 << 16) {
    while (1) {
        pipe(my $read, my $write) or die "pipe: $!";
        push @kept, $read, $write;
        fcntl($write, 1031, $size) or last;
        @kept < 900 or die "this user is not limited\n";
    }
}
print "no pipes left\n";
sleep;
"#;

impl Lab {
    /// Leaves the user wayleave no pipes worth having, for as long as this process is kept.
    #[track_caller]
    pub fn take_pipes(&self) -> Process {
        let uid = self.uid();
        let mut command = self.router_side().command("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
        command.args([&super::tools::tool("perl"), "-e", HOARD]);
        let process = Process::start("the hoarder of pipes", &mut command);
        process.line("no pipes left");
        process
    }
}
