complete -c wayleave -l local-port -d 'Port for redirected connections, on all addresses [default: 8443]' -r
complete -c wayleave -l listen -d 'Listen here instead; may be repeated' -r
complete -c wayleave -l sniff-timeout -d 'How long to wait for a hostname; "off" or negative: no sniffing [default: 1s]' -r
complete -c wayleave -l sniff-max-bytes -d 'How many bytes to look at [default: 8192]' -r
complete -c wayleave -l no-sniff-ports -d 'Ports where the server speaks first [default: 21,22,25,110,143,587,3306]' -r
complete -c wayleave -l allow -d 'Whitelist, also ALLOWED_HOSTS: host, *.host, **.host, CIDR, each with :PORT or without' -r
complete -c wayleave -l allow-file -d 'Whitelist file, one pattern a line; may be repeated' -r
complete -c wayleave -l default -d 'What no rule matches: allow or deny [default: allow; deny once a whitelist is given]' -r
complete -c wayleave -l direct -d 'Let through directly, never through the upstream' -r
complete -c wayleave -l direct-to -d 'Direct, by a host rule: resolved, strict or original [default: resolved]' -r
complete -c wayleave -l ech -d 'TLS hellos with an encrypted name (ECH), or GREASE like it: allow or deny [default: allow]' -r
complete -c wayleave -l upstream-proxy -d 'HTTP proxy to CONNECT through: [http://][user:pass@]host[:3128]' -r
complete -c wayleave -l upstream-credentials -d 'File with user:password for the upstream' -r
complete -c wayleave -l upstream-spares -d 'Connections kept open to the upstream ahead of need, at most; 0: none [default: 16]' -r
complete -c wayleave -l dial-timeout -d 'Bounds resolving, connecting and the upstream\'s reply together [default: 30s]' -r
complete -c wayleave -l idle-timeout -d 'Both directions silent [default: 2h 4m]' -r
complete -c wayleave -l half-close-timeout -d 'One direction finished, the other silent [default: 10m]' -r
complete -c wayleave -l max-connections -d 'Connections at once; the listener pauses there [default: from the descriptor limit]' -r
complete -c wayleave -l max-per-client -d 'Connections at once from one address; more are reset [default: no limit]' -r
complete -c wayleave -l drain-timeout -d 'How long open connections may finish after TERM [default: 30s]' -r
complete -c wayleave -l workers -d 'Threads [default: one per processor]' -r
complete -c wayleave -l log-format -d 'text or json [default: text]' -r
complete -c wayleave -l completions -d 'Write a completion script for bash, zsh or fish and exit' -r -f -a "bash\t''
elvish\t''
fish\t''
powershell\t''
zsh\t''"
complete -c wayleave -l recheck -d 'At HUP, also close open connections that the new policy denies'
complete -c wayleave -s h -l help -d 'Print help'
complete -c wayleave -s V -l version -d 'Print version'
