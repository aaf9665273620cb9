//! What is refused, in one line with the remedy.

use super::refused;

#[test]
fn refusals_are_one_line_with_the_remedy() {
    let table: &[(&[&str], u8, &str)] = &[
        (
            &["node", "ls"],
            1,
            "mesh: cannot reach the agent at /nonexistent/mesh.sock: no such file; start it with 'mesh agent' as root, \
             or name its socket with --socket",
        ),
        (
            &["service", "create", "--runtime", "exec", "--mount", "source=data,target=/data", "sleep", "1"],
            1,
            "mesh: --mount: runtime exec does not have it: volumes need runtime docker; bind a folder of the host \
             (/host/path:/path)",
        ),
        (
            &["service", "create", "--secret", "key", "nginx"],
            1,
            "mesh: --secret: secrets are not there yet; without it the service would run unprotected",
        ),
        (
            &["netwrk", "ls"],
            2,
            "mesh: unrecognized subcommand 'netwrk'; a similar subcommand exists: 'network'; see 'mesh --help'",
        ),
        (
            &["service", "ls", "--format", "{{.Name}}"],
            2,
            "mesh: invalid value '{{.Name}}' for '--format <FORMAT>': Go templates are not understood; take 'json' and \
             pick fields with jq; see 'mesh service ls --help'",
        ),
        (
            &["service", "scale", "web"],
            2,
            "mesh: invalid value 'web' for '<SERVICE=REPLICAS>...': 'web' is not SERVICE=REPLICAS, e.g. whoami=2; see \
             'mesh service scale --help'",
        ),
        (
            &["network", "create", "-d", "bridge", "x"],
            1,
            "mesh: network driver 'bridge' is not there: the one driver is overlay",
        ),
        (
            &["network", "create", "--subnet", "10.1.2.3/20", "x"],
            1,
            "mesh: --subnet 10.1.2.3/20: bits are set behind the prefix; did you mean 10.1.0.0/20?",
        ),
        (
            &["network", "create", "--subnet", "fd00:1::/64", "--subnet", "fd00:2::/64", "x"],
            1,
            "mesh: --subnet fd00:2::/64: a network has one subnet of each family; leave one out",
        ),
        (
            &["network", "create", "--gateway", "fd00:1::1", "--gateway", "fd00:2::1", "x"],
            1,
            "mesh: --gateway fd00:2::1: a subnet has one gateway; leave one out",
        ),
        (
            &["swarm", "init", "--default-addr-pool", "10.0.0.0/8", "--default-addr-pool", "172.16.0.0/12"],
            1,
            "mesh: --default-addr-pool 172.16.0.0/12: one pool of each family; leave one out",
        ),
        (
            &["stack", "deploy", "-c", "/nonexistent.yaml", "x"],
            1,
            "mesh: cannot read the manifest /nonexistent.yaml: No such file or directory (os error 2)",
        ),
    ];
    for (words, code, line) in table {
        assert_eq!(refused(words), (*code, line.to_string()), "{words:?}");
    }
    let (code, line) = refused(&["network", "create", "--subnet", "10.1.0.0/33", "x"]);
    assert_eq!((code, line.lines().count()), (2, 1), "{line}");
    let (code, line) = refused(&["exec", "whoami.1"]);
    assert_eq!((code, line.lines().count()), (2, 1), "{line}");
}
