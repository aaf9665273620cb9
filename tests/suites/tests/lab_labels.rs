//! Containers that somebody else starts, with labels for us, on an Engine with networks of its own: what the node hears of them, and
//! what it does to them. docs/reference/labels.md says the same in prose.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Engine, Namespace, eventually, serve_name_at, step};
use mesh_tests::containers::{SOON, launch, with_bridged_engine};
use mesh_userspace::kernel::net::{HostNet, namespace};
use mesh_userspace::model::{Id, TaskHealth};
use mesh_userspace::plan::net::TaskLink;
use mesh_userspace::runtime::TaskRuntime;
use mesh_userspace::runtime::docker::{Adoptable, DockerRuntime, names};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 1);
const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 0, 16, 5);

/// `docker run -d` of an image `busybox` that sleeps; its id.
fn run(engine: &Engine, name: &str, flags: &[&str]) -> Result<String> {
    let words = ["run", "-d", "--name", name].into_iter().chain(flags.iter().copied());
    let id = engine.docker(words.chain(["busybox", "sleep", "1000"]))?.ok()?;
    Ok(id.trim().to_owned())
}

fn inside(engine: &Engine, name: &str, script: &str) -> Result<String> {
    engine.docker(["exec", name, "sh", "-c", script])?.ok()
}

fn inspect(engine: &Engine, name: &str, template: &str) -> Result<String> {
    Ok(engine.docker(["inspect", "-f", template, name])?.ok()?.trim().to_owned())
}

/// Waits until these containers, by name, ask to join; the listing in the order of the names.
fn asking(runtime: &DockerRuntime, names: &[&str]) -> Result<Vec<Adoptable>> {
    let heard = runtime.adoptable();
    eventually(SOON, &format!("{names:?} ask to join"), || {
        let mut known = heard.borrow().clone().context("the Engine has not said")?;
        ensure!(known.is_sorted_by(|one, other| one.container < other.container), "{known:?}");
        known.sort_by(|one, other| one.name.cmp(&other.name));
        let seen: Vec<_> = known.iter().map(|one| one.name.as_str()).collect();
        ensure!(seen == names, "{seen:?}");
        Ok(known)
    })
}

#[test]
fn containers_that_ask_to_join_are_heard_of() {
    with_bridged_engine("containers that ask to join are heard of", &["--live-restore"], async |mut stage| {
        let engine = stage.engine;
        step("those that run already, and those that start");
        stage.runtime.close();
        let id = run(engine, "early", &["-l", "mesh.network=demo"])?;
        run(engine, "stranger", &[])?;
        stage.runtime = DockerRuntime::new(stage.config.clone())?;
        let early = asking(&stage.runtime, &["early"])?.remove(0);
        ensure!((early.container, early.service.as_str()) == (id, "early") && early.image == "busybox");
        ensure!(early.pid.to_string() == inspect(engine, "early", "{{.State.Pid}}")?);
        ensure!(early.problem.is_none() && early.health.is_none() && early.networks == ["demo"]);
        let its_own = inspect(engine, "early", "{{.ResolvConfPath}}")?;
        ensure!(early.resolv_conf.as_deref() == Some(Path::new(&its_own)), "{:?}", early.resolv_conf);

        step("what a Compose file says");
        engine.docker(["network", "create", "shop_default"])?.ok()?;
        let labels =
            ["mesh.network=demo,back", "mesh.port=8000:80", "mesh.alias=www", "com.docker.compose.service=web"];
        let mut flags = vec!["--network", "shop_default"];
        flags.extend(labels.iter().flat_map(|label| ["-l", label]));
        run(engine, "shop-web-1", &flags)?;
        let web = asking(&stage.runtime, &["early", "shop-web-1"])?.remove(1);
        ensure!((web.service.as_str(), web.aliases.as_slice()) == ("web", &["www".to_owned()][..]), "{web:?}");
        ensure!(web.networks == ["demo", "back"] && web.ports.len() == 1 && web.ports[0].published == 8000, "{web:?}");
        ensure!(web.resolv_conf.is_none(), "Docker's own resolver stays: {web:?}");

        step("a healthcheck's verdict");
        engine.derive("busybox", "checked", &["HEALTHCHECK --interval=300ms --retries=1 CMD test -e /tmp/well"])?;
        let words = ["run", "-d", "--name", "checked", "-l", "mesh.network=demo", "checked", "sleep", "1000"];
        engine.docker(words)?.ok()?;
        let told = |wanted: TaskHealth| {
            let heard = stage.runtime.adoptable();
            eventually(SOON, &format!("{wanted:?} is told"), || {
                let known = heard.borrow().clone().unwrap_or_default();
                let checked = known.iter().find(|one| one.name == "checked").context("not heard of")?;
                ensure!(checked.health == Some(wanted), "{:?}", checked.health);
                Ok(())
            })
        };
        told(TaskHealth::Unhealthy)?;
        inside(engine, "checked", "touch /tmp/well")?;
        told(TaskHealth::Healthy)?;

        step("what can't join says why, and our own tasks are no guests");
        run(engine, "hosts", &["-l", "mesh.network=demo", "--network", "host"])?;
        run(engine, "second", &["-l", "mesh.network=demo", "--network", "container:stranger"])?;
        let mut task = launch(1, &["sleep", "1000"]);
        task.container.labels.insert("mesh.network".into(), "demo".into());
        stage.run(&task).await?;
        let known = asking(&stage.runtime, &["checked", "early", "hosts", "second", "shop-web-1"])?;
        let problem = |at: usize| known[at].problem.clone().unwrap_or_default();
        ensure!(problem(2).contains("network_mode: host") && problem(3).contains("no network of its own"), "{known:?}");
        engine.docker(["rm", "-f", "hosts", "second", "checked"])?.ok()?;

        step("a new name, an end, and a new beginning");
        engine.docker(["rename", "early", "renamed"])?.ok()?;
        ensure!(asking(&stage.runtime, &["renamed", "shop-web-1"])?[0].service == "renamed");
        engine.docker(["stop", "-t", "0", "renamed"])?.ok()?;
        asking(&stage.runtime, &["shop-web-1"])?;
        engine.docker(["start", "renamed"])?.ok()?;
        let again = asking(&stage.runtime, &["renamed", "shop-web-1"])?.remove(0);
        ensure!(again.pid != early.pid, "another process");

        step("while the Engine is away nothing is said; back again, what became of them");
        let mut heard = stage.runtime.adoptable();
        engine.stop()?;
        heard.wait_for(Option::is_none).await?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(again.pid), nix::sys::signal::Signal::SIGKILL)?;
        engine.start_with_bridge(&["--live-restore"])?;
        asking(&stage.runtime, &["shop-web-1"])?;
        stage.runtime.remove(&task.task_id).await?;
        engine.docker(["rm", "-f", "shop-web-1"])?.ok()?;
        asking(&stage.runtime, &[])?;
        Ok(())
    });
}

/// The link of a container that joined, into the network 10.0.16.0/20.
fn link() -> TaskLink {
    TaskLink {
        name: "mvabababab".into(),
        task_id: Id::from_bytes([0xab; 16]),
        mac: [0xe6, 0x11, 0, 0, 0, 77],
        mtu: 1450,
        addrs: vec!["10.0.16.5/20".parse().expect("an address")],
        gateways: GATEWAY.into(),
        guest: true,
    }
}

/// Work on the node's links, in its namespace.
fn on_links<T: Send>(node: &Namespace, work: impl AsyncFnOnce(&HostNet) -> Result<T> + Send) -> Result<T> {
    let state = tempfile::tempdir()?;
    node.run(|| {
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        threads.block_on(async { work(&HostNet::open(state.path())?).await })
    })?
}

/// Puts the link in; the node's own stack plays the programs, as gateway of the network.
fn join(node: &Namespace, container: &Adoptable) -> Result<()> {
    let netns = namespace::of_process(container.pid.cast_unsigned())?;
    on_links(node, async |links| Ok(links.add_task_link(&link(), netns.as_fd()).await?))?;
    node.ip("addr add 10.0.16.1/20 dev mvabababab")
}

/// What a web server says to somebody on the node.
fn fetch(node: &Namespace, at: &str) -> Result<String> {
    node.run(|| {
        let mut stream = TcpStream::connect_timeout(&at.parse()?, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    })?
}

/// Interfaces, addresses, routes, rules and settings inside, as the container's own tools show them.
fn network_of(engine: &Engine, name: &str) -> Result<String> {
    inside(engine, name, "ip addr; ip route show table all; ip rule; cat /proc/sys/net/ipv4/conf/*/rp_filter")
}

#[test]
fn on_dockers_bridge_a_guest_has_our_network_and_names_beside_its_own() {
    let title = "on Docker's bridge a guest has our network and names beside its own";
    with_bridged_engine(title, &[], async |stage| {
        let (engine, node) = (stage.engine, stage.namespace);
        run(engine, "web", &["-l", "mesh.network=demo", "-p", "8080:80", "--dns-search", "corp.example"])?;
        let web = asking(&stage.runtime, &["web"])?.remove(0);
        let (before, names_before) = (network_of(engine, "web")?, inside(engine, "web", "cat /etc/resolv.conf")?);

        step("joined: both addresses answer, each by its own way");
        join(node, &web)?;
        inside(engine, "web", "mkdir /www; echo it is web > /www/index.html; httpd -h /www")?;
        let bridge = inspect(engine, "web", "{{.NetworkSettings.IPAddress}}")?;
        for at in [format!("{OVERLAY}:80"), format!("{bridge}:80"), "127.0.0.1:8080".to_owned()] {
            let said = fetch(node, &at).with_context(|| at.clone())?;
            ensure!(said.ends_with("\r\n\r\nit is web\n"), "{at}: {said}");
        }
        ensure!(inside(engine, "web", "ip route")?.contains("default via 172.17.0.1 dev eth0"));

        step("names of ours, in the very file that is mounted in it");
        let askers = serve_name_at(node, GATEWAY, "db", Ipv4Addr::new(10, 0, 16, 9))?;
        let file = web.resolv_conf.clone().context("its names are ours to give")?;
        let kept_in = stage.folder.join("guests/web.json");
        names::give(&file, &kept_in, GATEWAY.into(), &[])?;
        let text = inside(engine, "web", "cat /etc/resolv.conf")?;
        ensure!(text.contains("nameserver 10.0.16.1\nsearch corp.example\n"), "{text}");
        ensure!(inside(engine, "web", "nslookup db.")?.contains("10.0.16.9"));
        ensure!(askers.recv_timeout(SOON)? == IpAddr::from(OVERLAY), "the resolver sees whose question it is");

        step("Docker can give it a further network all the same");
        engine.docker(["network", "create", "late"])?.ok()?;
        engine.docker(["network", "connect", "late", "web"])?.ok()?;
        ensure!(inside(engine, "web", "ip link")?.contains("eth1@"));
        let heard = stage.runtime.adoptable();
        eventually(SOON, "its names are Docker's from now on", || {
            let known = heard.borrow().clone().unwrap_or_default();
            ensure!(known.len() == 1 && known[0].resolv_conf.is_none(), "{known:?}");
            Ok(())
        })?;
        engine.docker(["network", "disconnect", "late", "web"])?.ok()?;

        step("taken away: as it was");
        on_links(node, async |links| Ok(links.remove_task_link("mvabababab").await?))?;
        let after = network_of(engine, "web")?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        names::take_back(&kept_in)?;
        let now = inside(engine, "web", "cat /etc/resolv.conf")?;
        // Docker wrote the file anew when it gave the further network; what is there must be none of ours.
        ensure!(!now.contains("10.0.16.1") && !now.contains("mesh"), "{now}");

        step("one that only joined has its file back to the byte");
        engine.docker(["restart", "-t", "0", "web"])?.ok()?;
        let started = inside(engine, "web", "cat /etc/resolv.conf")?;
        ensure!(started == names_before, "{started}");
        names::give(&file, &kept_in, GATEWAY.into(), &[])?;
        names::take_back(&kept_in)?;
        ensure!(inside(engine, "web", "cat /etc/resolv.conf")? == names_before && !kept_in.exists());
        Ok(())
    });
}

#[test]
fn on_a_network_of_its_own_a_guest_resolves_our_names_by_dockers_resolver() {
    let title = "on a network of its own a guest resolves our names by Docker's resolver";
    with_bridged_engine(title, &[], async |stage| {
        let (engine, node) = (stage.engine, stage.namespace);
        engine.docker(["network", "create", "shop"])?.ok()?;
        run(engine, "db", &["--network", "shop"])?;
        // As `dns: [10.0.16.1]` in a Compose file.
        run(engine, "web", &["-l", "mesh.network=demo", "--network", "shop", "--dns", "10.0.16.1"])?;
        let web = asking(&stage.runtime, &["web"])?.remove(0);
        ensure!(web.resolv_conf.is_none(), "{web:?}");
        join(node, &web)?;
        let askers = serve_name_at(node, GATEWAY, "cache", Ipv4Addr::new(10, 0, 16, 9))?;

        step("Docker's own names first, ours by the way of our link");
        let shops = inspect(engine, "db", "{{.NetworkSettings.Networks.shop.IPAddress}}")?;
        ensure!(inside(engine, "web", "nslookup db 127.0.0.11")?.contains(&shops));
        ensure!(inside(engine, "web", "nslookup cache")?.contains("10.0.16.9"));
        ensure!(askers.iter().next() == Some(IpAddr::from(OVERLAY)), "asked from inside the container");
        Ok(())
    });
}

#[test]
fn a_container_without_a_network_has_ours_alone() {
    with_bridged_engine("a container without a network has ours alone", &[], async |stage| {
        let (engine, node) = (stage.engine, stage.namespace);
        run(engine, "lonely", &["-l", "mesh.network=demo", "--network", "none"])?;
        let lonely = asking(&stage.runtime, &["lonely"])?.remove(0);
        let before = network_of(engine, "lonely")?;
        join(node, &lonely)?;
        inside(engine, "lonely", "mkdir /www; echo it is lonely > /www/index.html; httpd -h /www")?;
        let said = fetch(node, &format!("{OVERLAY}:80"))?;
        ensure!(said.ends_with("it is lonely\n"), "{said}");
        let _askers = serve_name_at(node, GATEWAY, "db", Ipv4Addr::new(10, 0, 16, 9))?;
        let kept_in = names::kept_in(&stage.folder, &lonely.container);
        names::give(&lonely.resolv_conf.context("its names are ours to give")?, &kept_in, GATEWAY.into(), &[])?;
        ensure!(inside(engine, "lonely", "nslookup db.")?.contains("10.0.16.9"));
        on_links(node, async |links| Ok(links.purge().await.map(drop)?))?;
        names::take_back(&kept_in)?;
        let after = network_of(engine, "lonely")?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(())
    });
}

#[test]
fn guests_join_beside_an_active_docker_swarm() {
    with_bridged_engine("guests join beside an active Docker Swarm", &[], async |stage| {
        let (engine, node) = (stage.engine, stage.namespace);
        let address = node.ip_show(&["-4", "-o", "addr", "show", "scope", "global"])?.ok()?;
        let own = address.split_whitespace().find_map(|word| word.split_once('/')?.0.parse().ok());
        engine.swarm_init(own.with_context(|| format!("no address in {address}"))?)?;
        run(engine, "web", &["-l", "mesh.network=demo"])?;
        let web = asking(&stage.runtime, &["web"])?.remove(0);
        join(node, &web)?;
        ensure!(inside(engine, "web", "ip addr show mesh0")?.contains("10.0.16.5/20"));

        step("Swarm's own network, which a container may be on as well");
        engine
            .docker(["network", "create", "-d", "overlay", "--attachable", "--subnet", "10.77.0.0/24", "theirs"])?
            .ok()?;
        engine.docker(["network", "connect", "theirs", "web"])?.ok()?;
        let addresses = inside(engine, "web", "ip addr")?;
        ensure!(addresses.contains("10.77.0.") && addresses.contains("10.0.16.5"), "{addresses}");

        step("the ports that it has, which mesh would have too");
        let any = Ipv4Addr::UNSPECIFIED;
        for port in [2377, 7946] {
            let bound = node.run(|| TcpListener::bind((any, port)))?;
            ensure!(bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse), "{port}/tcp");
        }
        for port in [7946, 4789] {
            let bound = node.run(|| UdpSocket::bind((any, port)))?;
            ensure!(bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse), "{port}/udp");
        }
        Ok(())
    });
}
