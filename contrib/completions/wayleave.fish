# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_wayleave_global_optspecs
    string join \n local-port= listen= capture= source= mark= firewall= firewall-persist in-interface= ports= uid= gid= cgroup= upstream-uid= own-uid= own-cgroup= except-destination= except-source= lan= quic= gate-dns= gate-icmp sniff-timeout= sniff-max-bytes= no-sniff-ports= policy= allow= allow-file= default= direct= direct-to= ech= recheck audit upstream-proxy= upstream-policy= when-upstream-down= upstream-credentials= upstream-ca= forwarded= connect-header= upstream-spares= dial-timeout= idle-timeout= half-close-timeout= half-close= max-connections= max-per-client= drain-timeout= workers= log-format= completions= h/help V/version
end

function __fish_wayleave_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_wayleave_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_wayleave_using_subcommand
    set -l cmd (__fish_wayleave_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c wayleave -n "__fish_wayleave_needs_command" -l local-port -d 'Port for redirected connections, on all addresses [default: 8443]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l listen -d 'Listen here instead; may be repeated. "tproxy=" or "redirect=" before it says how connections come to it' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l capture -d 'How connections come to listeners: redirect or tproxy [default: redirect]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l source -d 'Whose address direct connections come from: own or client [default: own]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l mark -d 'Firewall mark of all that wayleave sends [default: none; 0x574c with --firewall output]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l firewall -d 'Make the rules, for as long as the daemon runs: router, output, gate, or several' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l in-interface -d 'router, gate: where clients are, such as lan0,br-*,docker0 [default: wherever no default route leads]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l ports -d 'Ports that are captured, such as 80,443,8000-8100 [default: 80,443]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l uid -d 'output: capture only what these users send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l gid -d 'output: capture only what these groups send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l cgroup -d 'output: capture only what these cgroups send, such as user.slice; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l upstream-uid -d 'output: leave these users alone, who run an upstream here; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l own-uid -d 'output: wayleave\'s own user, whom the rules leave alone [default: wayleave, where it has no --mark]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l own-cgroup -d 'output: wayleave\'s own cgroup, instead of its user' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l except-destination -d 'Networks that are reached without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l except-source -d 'Clients that do without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l lan -d 'Private and local networks: leave or capture [default: leave; capture for gate]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l quic -d 'udp/443, which would go past wayleave: reject or allow [default: reject]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l gate-dns -d 'gate: name servers that clients may ask; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l sniff-timeout -d 'How long to wait for a hostname; "off" or negative: no sniffing [default: 1s]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l sniff-max-bytes -d 'How many bytes to look at [default: 8192]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l no-sniff-ports -d 'Ports where the server speaks first [default: 21,22,25,110,143,587,3306]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l policy -d 'Policy file, one rule a line: allow, deny, direct or tunnel DESTINATION [from SOURCE] [port PORTS] [via UPSTREAM]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l allow -d 'Whitelist, also ALLOWED_HOSTS: host, *.host, **.host, CIDR, each with :PORT or without' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l allow-file -d 'Whitelist file, one pattern a line; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l default -d 'What no rule matches: allow or deny [default: allow; deny once a whitelist or a policy file is given]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l direct -d 'Let through directly, never through the upstream; env:NO_PROXY for what is in that variable' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l direct-to -d 'Direct, by a host rule: resolved, strict or original [default: resolved]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l ech -d 'TLS hellos with an encrypted name (ECH), or GREASE like it: allow or deny [default: allow]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l upstream-proxy -d 'Proxy to tunnel through, may be repeated: [http://|https://|socks5://][user:pass@]host[:port]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l upstream-policy -d 'Which upstream: failover, round-robin, least-connections or source-hash [default: failover]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l when-upstream-down -d 'While no upstream is there: fail or direct [default: fail]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l upstream-credentials -d 'File with user:password for the upstream, may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l upstream-ca -d 'Certificates to trust in https:// upstreams instead of the system\'s' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l forwarded -d 'Tell upstreams the client\'s address: off, forwarded, x-forwarded-for or proxy-v2 [default: off]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l connect-header -d 'Say this as well when asking for a tunnel; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l upstream-spares -d 'Connections kept open to each upstream ahead of need, at most; 0: none [default: 16]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l dial-timeout -d 'Bounds resolving, connecting and the upstream\'s reply together [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l idle-timeout -d 'Both directions silent [default: 2h 4m]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l half-close-timeout -d 'One direction finished, the other silent [default: 10m]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l half-close -d 'A client\'s end of data, through an upstream: forward, hold or auto [default: auto]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l max-connections -d 'Connections at once; the listener pauses there [default: from the descriptor limit]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l max-per-client -d 'Connections at once from one address; more are reset [default: no limit]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l drain-timeout -d 'How long open connections may finish after TERM [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l workers -d 'Threads [default: one per processor]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l log-format -d 'text or json [default: text]' -r
complete -c wayleave -n "__fish_wayleave_needs_command" -l completions -d 'Write a completion script for bash, zsh or fish and exit' -r -f -a "bash\t''
elvish\t''
fish\t''
powershell\t''
zsh\t''"
complete -c wayleave -n "__fish_wayleave_needs_command" -l firewall-persist -d 'The rules outlive the daemon: what is captured is then refused (gate does this by itself)'
complete -c wayleave -n "__fish_wayleave_needs_command" -l gate-icmp -d 'gate: let clients ping'
complete -c wayleave -n "__fish_wayleave_needs_command" -l recheck -d 'At HUP, also close open connections that the new policy denies'
complete -c wayleave -n "__fish_wayleave_needs_command" -l audit -d 'Let everything through, and note in the record what would have been refused'
complete -c wayleave -n "__fish_wayleave_needs_command" -s h -l help -d 'Print help'
complete -c wayleave -n "__fish_wayleave_needs_command" -s V -l version -d 'Print version'
complete -c wayleave -n "__fish_wayleave_needs_command" -f -a "check" -d 'Read flags, environment, policy and lists as the daemon would, and say what they mean'
complete -c wayleave -n "__fish_wayleave_needs_command" -f -a "explain" -d 'Say which rule decides about a connection, and which way it would go'
complete -c wayleave -n "__fish_wayleave_needs_command" -f -a "suggest" -d 'Write a whitelist from the records of what was seen'
complete -c wayleave -n "__fish_wayleave_needs_command" -f -a "firewall" -d 'Make the netfilter rules that fit the daemon\'s flags: print, apply, remove or check them'
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l local-port -d 'Port for redirected connections, on all addresses [default: 8443]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l listen -d 'Listen here instead; may be repeated. "tproxy=" or "redirect=" before it says how connections come to it' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l capture -d 'How connections come to listeners: redirect or tproxy [default: redirect]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l source -d 'Whose address direct connections come from: own or client [default: own]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l mark -d 'Firewall mark of all that wayleave sends [default: none; 0x574c with --firewall output]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l firewall -d 'Make the rules, for as long as the daemon runs: router, output, gate, or several' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l in-interface -d 'router, gate: where clients are, such as lan0,br-*,docker0 [default: wherever no default route leads]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l ports -d 'Ports that are captured, such as 80,443,8000-8100 [default: 80,443]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l uid -d 'output: capture only what these users send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l gid -d 'output: capture only what these groups send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l cgroup -d 'output: capture only what these cgroups send, such as user.slice; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l upstream-uid -d 'output: leave these users alone, who run an upstream here; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l own-uid -d 'output: wayleave\'s own user, whom the rules leave alone [default: wayleave, where it has no --mark]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l own-cgroup -d 'output: wayleave\'s own cgroup, instead of its user' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l except-destination -d 'Networks that are reached without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l except-source -d 'Clients that do without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l lan -d 'Private and local networks: leave or capture [default: leave; capture for gate]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l quic -d 'udp/443, which would go past wayleave: reject or allow [default: reject]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l gate-dns -d 'gate: name servers that clients may ask; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l sniff-timeout -d 'How long to wait for a hostname; "off" or negative: no sniffing [default: 1s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l sniff-max-bytes -d 'How many bytes to look at [default: 8192]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l no-sniff-ports -d 'Ports where the server speaks first [default: 21,22,25,110,143,587,3306]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l policy -d 'Policy file, one rule a line: allow, deny, direct or tunnel DESTINATION [from SOURCE] [port PORTS] [via UPSTREAM]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l allow -d 'Whitelist, also ALLOWED_HOSTS: host, *.host, **.host, CIDR, each with :PORT or without' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l allow-file -d 'Whitelist file, one pattern a line; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l default -d 'What no rule matches: allow or deny [default: allow; deny once a whitelist or a policy file is given]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l direct -d 'Let through directly, never through the upstream; env:NO_PROXY for what is in that variable' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l direct-to -d 'Direct, by a host rule: resolved, strict or original [default: resolved]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l ech -d 'TLS hellos with an encrypted name (ECH), or GREASE like it: allow or deny [default: allow]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l upstream-proxy -d 'Proxy to tunnel through, may be repeated: [http://|https://|socks5://][user:pass@]host[:port]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l upstream-policy -d 'Which upstream: failover, round-robin, least-connections or source-hash [default: failover]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l when-upstream-down -d 'While no upstream is there: fail or direct [default: fail]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l upstream-credentials -d 'File with user:password for the upstream, may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l upstream-ca -d 'Certificates to trust in https:// upstreams instead of the system\'s' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l forwarded -d 'Tell upstreams the client\'s address: off, forwarded, x-forwarded-for or proxy-v2 [default: off]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l connect-header -d 'Say this as well when asking for a tunnel; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l upstream-spares -d 'Connections kept open to each upstream ahead of need, at most; 0: none [default: 16]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l dial-timeout -d 'Bounds resolving, connecting and the upstream\'s reply together [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l idle-timeout -d 'Both directions silent [default: 2h 4m]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l half-close-timeout -d 'One direction finished, the other silent [default: 10m]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l half-close -d 'A client\'s end of data, through an upstream: forward, hold or auto [default: auto]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l max-connections -d 'Connections at once; the listener pauses there [default: from the descriptor limit]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l max-per-client -d 'Connections at once from one address; more are reset [default: no limit]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l drain-timeout -d 'How long open connections may finish after TERM [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l workers -d 'Threads [default: one per processor]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l log-format -d 'text or json [default: text]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l firewall-persist -d 'The rules outlive the daemon: what is captured is then refused (gate does this by itself)'
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l gate-icmp -d 'gate: let clients ping'
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l recheck -d 'At HUP, also close open connections that the new policy denies'
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -l audit -d 'Let everything through, and note in the record what would have been refused'
complete -c wayleave -n "__fish_wayleave_using_subcommand check" -s h -l help -d 'Print help'
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l at -d 'The address that the client dialled, if it is not one that HOST resolves to here' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l local-port -d 'Port for redirected connections, on all addresses [default: 8443]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l listen -d 'Listen here instead; may be repeated. "tproxy=" or "redirect=" before it says how connections come to it' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l capture -d 'How connections come to listeners: redirect or tproxy [default: redirect]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l source -d 'Whose address direct connections come from: own or client [default: own]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l mark -d 'Firewall mark of all that wayleave sends [default: none; 0x574c with --firewall output]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l firewall -d 'Make the rules, for as long as the daemon runs: router, output, gate, or several' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l in-interface -d 'router, gate: where clients are, such as lan0,br-*,docker0 [default: wherever no default route leads]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l ports -d 'Ports that are captured, such as 80,443,8000-8100 [default: 80,443]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l uid -d 'output: capture only what these users send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l gid -d 'output: capture only what these groups send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l cgroup -d 'output: capture only what these cgroups send, such as user.slice; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l upstream-uid -d 'output: leave these users alone, who run an upstream here; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l own-uid -d 'output: wayleave\'s own user, whom the rules leave alone [default: wayleave, where it has no --mark]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l own-cgroup -d 'output: wayleave\'s own cgroup, instead of its user' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l except-destination -d 'Networks that are reached without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l except-source -d 'Clients that do without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l lan -d 'Private and local networks: leave or capture [default: leave; capture for gate]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l quic -d 'udp/443, which would go past wayleave: reject or allow [default: reject]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l gate-dns -d 'gate: name servers that clients may ask; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l sniff-timeout -d 'How long to wait for a hostname; "off" or negative: no sniffing [default: 1s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l sniff-max-bytes -d 'How many bytes to look at [default: 8192]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l no-sniff-ports -d 'Ports where the server speaks first [default: 21,22,25,110,143,587,3306]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l policy -d 'Policy file, one rule a line: allow, deny, direct or tunnel DESTINATION [from SOURCE] [port PORTS] [via UPSTREAM]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l allow -d 'Whitelist, also ALLOWED_HOSTS: host, *.host, **.host, CIDR, each with :PORT or without' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l allow-file -d 'Whitelist file, one pattern a line; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l default -d 'What no rule matches: allow or deny [default: allow; deny once a whitelist or a policy file is given]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l direct -d 'Let through directly, never through the upstream; env:NO_PROXY for what is in that variable' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l direct-to -d 'Direct, by a host rule: resolved, strict or original [default: resolved]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l ech -d 'TLS hellos with an encrypted name (ECH), or GREASE like it: allow or deny [default: allow]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l upstream-proxy -d 'Proxy to tunnel through, may be repeated: [http://|https://|socks5://][user:pass@]host[:port]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l upstream-policy -d 'Which upstream: failover, round-robin, least-connections or source-hash [default: failover]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l when-upstream-down -d 'While no upstream is there: fail or direct [default: fail]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l upstream-credentials -d 'File with user:password for the upstream, may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l upstream-ca -d 'Certificates to trust in https:// upstreams instead of the system\'s' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l forwarded -d 'Tell upstreams the client\'s address: off, forwarded, x-forwarded-for or proxy-v2 [default: off]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l connect-header -d 'Say this as well when asking for a tunnel; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l upstream-spares -d 'Connections kept open to each upstream ahead of need, at most; 0: none [default: 16]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l dial-timeout -d 'Bounds resolving, connecting and the upstream\'s reply together [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l idle-timeout -d 'Both directions silent [default: 2h 4m]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l half-close-timeout -d 'One direction finished, the other silent [default: 10m]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l half-close -d 'A client\'s end of data, through an upstream: forward, hold or auto [default: auto]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l max-connections -d 'Connections at once; the listener pauses there [default: from the descriptor limit]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l max-per-client -d 'Connections at once from one address; more are reset [default: no limit]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l drain-timeout -d 'How long open connections may finish after TERM [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l workers -d 'Threads [default: one per processor]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l log-format -d 'text or json [default: text]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l firewall-persist -d 'The rules outlive the daemon: what is captured is then refused (gate does this by itself)'
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l gate-icmp -d 'gate: let clients ping'
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l recheck -d 'At HUP, also close open connections that the new policy denies'
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -l audit -d 'Let everything through, and note in the record what would have been refused'
complete -c wayleave -n "__fish_wayleave_using_subcommand explain" -s h -l help -d 'Print help'
complete -c wayleave -n "__fish_wayleave_using_subcommand suggest" -l collapse -d 'Write *.parent for this many names directly under one parent; 0: never' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand suggest" -s h -l help -d 'Print help'
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l mode -d 'Whose connections: router, output, gate, or several; as --firewall of the daemon if not given' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l local-port -d 'Port for redirected connections, on all addresses [default: 8443]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l listen -d 'Listen here instead; may be repeated. "tproxy=" or "redirect=" before it says how connections come to it' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l capture -d 'How connections come to listeners: redirect or tproxy [default: redirect]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l source -d 'Whose address direct connections come from: own or client [default: own]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l mark -d 'Firewall mark of all that wayleave sends [default: none; 0x574c with --firewall output]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l firewall -d 'Make the rules, for as long as the daemon runs: router, output, gate, or several' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l in-interface -d 'router, gate: where clients are, such as lan0,br-*,docker0 [default: wherever no default route leads]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l ports -d 'Ports that are captured, such as 80,443,8000-8100 [default: 80,443]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l uid -d 'output: capture only what these users send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l gid -d 'output: capture only what these groups send; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l cgroup -d 'output: capture only what these cgroups send, such as user.slice; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l upstream-uid -d 'output: leave these users alone, who run an upstream here; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l own-uid -d 'output: wayleave\'s own user, whom the rules leave alone [default: wayleave, where it has no --mark]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l own-cgroup -d 'output: wayleave\'s own cgroup, instead of its user' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l except-destination -d 'Networks that are reached without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l except-source -d 'Clients that do without wayleave; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l lan -d 'Private and local networks: leave or capture [default: leave; capture for gate]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l quic -d 'udp/443, which would go past wayleave: reject or allow [default: reject]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l gate-dns -d 'gate: name servers that clients may ask; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l sniff-timeout -d 'How long to wait for a hostname; "off" or negative: no sniffing [default: 1s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l sniff-max-bytes -d 'How many bytes to look at [default: 8192]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l no-sniff-ports -d 'Ports where the server speaks first [default: 21,22,25,110,143,587,3306]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l policy -d 'Policy file, one rule a line: allow, deny, direct or tunnel DESTINATION [from SOURCE] [port PORTS] [via UPSTREAM]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l allow -d 'Whitelist, also ALLOWED_HOSTS: host, *.host, **.host, CIDR, each with :PORT or without' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l allow-file -d 'Whitelist file, one pattern a line; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l default -d 'What no rule matches: allow or deny [default: allow; deny once a whitelist or a policy file is given]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l direct -d 'Let through directly, never through the upstream; env:NO_PROXY for what is in that variable' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l direct-to -d 'Direct, by a host rule: resolved, strict or original [default: resolved]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l ech -d 'TLS hellos with an encrypted name (ECH), or GREASE like it: allow or deny [default: allow]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l upstream-proxy -d 'Proxy to tunnel through, may be repeated: [http://|https://|socks5://][user:pass@]host[:port]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l upstream-policy -d 'Which upstream: failover, round-robin, least-connections or source-hash [default: failover]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l when-upstream-down -d 'While no upstream is there: fail or direct [default: fail]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l upstream-credentials -d 'File with user:password for the upstream, may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l upstream-ca -d 'Certificates to trust in https:// upstreams instead of the system\'s' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l forwarded -d 'Tell upstreams the client\'s address: off, forwarded, x-forwarded-for or proxy-v2 [default: off]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l connect-header -d 'Say this as well when asking for a tunnel; may be repeated' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l upstream-spares -d 'Connections kept open to each upstream ahead of need, at most; 0: none [default: 16]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l dial-timeout -d 'Bounds resolving, connecting and the upstream\'s reply together [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l idle-timeout -d 'Both directions silent [default: 2h 4m]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l half-close-timeout -d 'One direction finished, the other silent [default: 10m]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l half-close -d 'A client\'s end of data, through an upstream: forward, hold or auto [default: auto]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l max-connections -d 'Connections at once; the listener pauses there [default: from the descriptor limit]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l max-per-client -d 'Connections at once from one address; more are reset [default: no limit]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l drain-timeout -d 'How long open connections may finish after TERM [default: 30s]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l workers -d 'Threads [default: one per processor]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l log-format -d 'text or json [default: text]' -r
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l iptables -d 'print, check: rules for iptables-restore and ip6tables-restore instead of nft'
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l firewall-persist -d 'The rules outlive the daemon: what is captured is then refused (gate does this by itself)'
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l gate-icmp -d 'gate: let clients ping'
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l recheck -d 'At HUP, also close open connections that the new policy denies'
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -l audit -d 'Let everything through, and note in the record what would have been refused'
complete -c wayleave -n "__fish_wayleave_using_subcommand firewall" -s h -l help -d 'Print help (see more with \'--help\')'
