//! Who may know whom: pure core <- settings <- edges <- session <- server <- forwarder <- main. The map of the
//! house is in lib.rs; this keeps the code to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each layer may use the ones before it, and modules of its own layer.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "pure",
        &[
            "addr",
            "answer",
            "connect",
            "firewall",
            "intercept",
            "policy",
            "proxy_protocol",
            "record",
            "sniff",
            "socks",
            "suggest",
        ],
    ),
    ("settings", &["cli", "settings"]),
    (
        "edges",
        &[
            "alarm",
            "dial",
            "intake",
            "log",
            "netfilter",
            "proc",
            "relay",
            "resolve",
            "ruleset",
            "scratch",
            "secret",
            "signal",
            "socket",
            "sys",
            "tls",
        ],
    ),
    // The binary's, which reads and prints; what carries connections is out of its reach.
    ("commands", &["commands"]),
    ("session", &["session"]),
    ("server", &["server"]),
    ("forwarder", &["forwarder"]),
];

/// The crates that the pure core may use, besides std.
const PURE_CRATES: &[&str] = &[
    "base64",
    "bytes",
    "crate",
    "hashbrown",
    "httparse",
    "idna",
    "ipnet",
    "psl",
    "serde",
    "serde_json",
    "std",
    "super",
    "tls_parser",
];

/// What makes std impure: the system, the clock, the network, threads.
const IMPURE_STD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::sync::Mutex",
    "std::thread",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "println!",
    "eprintln!",
];

fn layer_of(module: &str) -> usize {
    let found = LAYERS.iter().position(|(_, modules)| modules.contains(&module));
    found.unwrap_or_else(|| panic!("{module} is in no layer: give it one, here and in lib.rs"))
}

/// The source of every module, tests left out: they may use what they like.
fn sources() -> BTreeMap<PathBuf, String> {
    fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let code: Vec<&str> =
                    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                found.insert(path, code.join("\n"));
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The module of lib.rs that a file belongs to; none for lib.rs and main.rs.
fn module_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main"].contains(&module)).then(|| module.to_owned())
}

/// Every `name` in `name::`, as far as a path begins with it.
fn path_roots(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("::").filter_map(|(at, _)| {
        let before = &code[..at];
        let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
        let root = &before[start..];
        (!before[..start].ends_with("::") && !root.is_empty()).then_some(root)
    })
}

#[test]
fn nobody_knows_who_is_above() {
    for (path, code) in sources() {
        let Some(module) = module_of(&path) else { continue };
        // What belongs to the binary knows the library by its name.
        let paths = ["crate::", "wayleave::"].into_iter().flat_map(|root| code.split(root).skip(1));
        for path_in_crate in paths {
            let used: String =
                path_in_crate.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(
                layer_of(&used) <= layer_of(&module),
                "{} uses {used}, which is above {module}",
                path.display()
            );
        }
    }
}

#[test]
fn the_core_is_pure() {
    let mut files = 0;
    for (path, code) in sources() {
        if module_of(&path).is_none_or(|module| layer_of(&module) != 0) {
            continue;
        }
        files += 1;
        for line in
            code.lines().filter(|line| line.trim_start().starts_with("use ") || line.contains("pub use "))
        {
            let root = path_roots(line).next().unwrap_or_default();
            // `use` of a module's own children has a lower-case root that is no crate.
            let own_child = code.contains(&format!("mod {root};"));
            assert!(own_child || PURE_CRATES.contains(&root), "{} uses {root}: {line}", path.display());
        }
        for root in ["tokio", "libc", "tracing", "socket2", "arc_swap", "if_addrs", "humantime"] {
            assert!(!path_roots(&code).any(|found| found == root), "{} uses {root}", path.display());
        }
        for word in IMPURE_STD {
            assert!(!code.contains(word), "{} uses {word}", path.display());
        }
    }
    assert!(files >= 10, "the pure modules were not found");
}

#[test]
fn only_netfilter_makes_an_original_destination() {
    for (path, code) in sources() {
        let makes = code.contains("OriginalDst::recovered") || code.contains("OriginalDst(");
        let may = matches!(module_of(&path).as_deref(), Some("netfilter" | "addr"));
        assert!(!makes || may, "{} makes an OriginalDst", path.display());
    }
}

#[test]
fn unsafe_code_is_in_sys_alone_and_says_why_it_is_sound() {
    let mut blocks = 0;
    for (path, _) in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (i, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
            assert!(
                path.ends_with("sys.rs") || path.ends_with("sys/nftables.rs"),
                "{}:{} is unsafe",
                path.display(),
                i + 1
            );
            let why = lines[i.saturating_sub(4)..i].iter().any(|line| line.contains("// SAFETY: "));
            assert!(why, "{}:{} has no SAFETY line", path.display(), i + 1);
            blocks += 1;
        }
    }
    assert!(blocks > 0);
}

#[test]
fn the_top_level_stays_as_it_is() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "src",
        "man",
        "tests",
        "contrib",
        "target",
    ];
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || allowed.contains(&name.as_str()),
            "{name} has no place at the top level"
        );
    }
}
