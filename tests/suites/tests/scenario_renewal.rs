//! Certificates are renewed before they end, by every node itself, and nobody notices.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, eventually, scenario, step};
use mesh_userspace::membership::identity::{CertifiedName, ClusterSecrets, NodeIdentity, NodeKey};
use mesh_userspace::model::{Change, Cluster};
use mesh_userspace::store::{EmbeddedStore, objects};

const SOON: Duration = Duration::from_secs(15);
const DAY_MS: u64 = 24 * 3_600 * 1_000;

#[test]
fn an_old_certificate_is_replaced_while_everything_runs() {
    scenario("an old certificate is replaced while everything runs", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.create_whoami("whoami", &["-p", "8000:8000", "--constraint", "node.hostname==n2"])?;
        let nodes = [lab.node("n1"), lab.node("n2")];

        step("the agents of n1 and n2 are stopped, and find their certificates 60 days old when they come back");
        nodes.iter().try_for_each(|node| node.stop())?;
        let old = age(&nodes)?;
        nodes.iter().try_for_each(|node| node.start())?;
        swarm.wait_ready(3, SOON)?;

        for (node, old) in nodes.iter().zip(&old) {
            step(&format!("{} has another one", node.name()));
            let new = eventually(SOON, "a renewed certificate", || {
                let new = identity(node.state_dir().as_path())?;
                ensure!(new.fingerprint() != old.fingerprint(), "still the old one");
                Ok(new)
            })?;
            ensure!(new.name() == old.name());
            ensure!(new.not_after() > old.not_after() + 59 * DAY_MS, "it ends at {}", new.not_after());
        }
        step("changes go on at once and after a restart, with the new certificates");
        swarm.scale("whoami", 2)?;
        nodes.iter().try_for_each(|node| node.restart())?;
        swarm.wait_ready(3, SOON)?;
        swarm.scale("whoami", 1)?;
        ensure!(lab.node("n2").mesh(["node", "ls"])?.ok()?.contains("Ready"));
        lab.client().ask(lab.node("n3").address(), 8000).map(drop)
    });
}

fn identity(state_dir: &Path) -> Result<NodeIdentity> {
    NodeIdentity::load(state_dir)?.with_context(|| format!("no identity in {}", state_dir.display()))
}

/// Gives these nodes certificates that the cluster's CA signed 60 days ago, in their files and in the store.
fn age(nodes: &[&Node]) -> Result<Vec<NodeIdentity>> {
    let keeper = nodes.first().context("the store's node")?.state_dir();
    let secrets = ClusterSecrets::load(&keeper)?.context("n1 keeps the cluster's secrets")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let mut old = Vec::new();
    for node in nodes {
        let name: CertifiedName = identity(&node.state_dir())?.name().clone();
        let key = NodeKey::generate()?;
        let signed = secrets.ca.sign(&key.csr_pem()?, &name, now - 60 * DAY_MS)?;
        let aged = key.certified(&signed.pem, secrets.ca.certificate_pem(), secrets.gossip_keys.clone())?;
        aged.save(&node.state_dir())?;
        old.push(aged);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = EmbeddedStore::open(keeper.join("store.redb")).await?;
        let cluster: Cluster = objects::load_cluster(&store).await?;
        let changes: Vec<Change> = old
            .iter()
            .filter_map(|identity| {
                let mut node = cluster.nodes.get(&identity.name().node_id)?.clone();
                node.cert_fingerprint = identity.fingerprint().to_string();
                Some(Change::PutNode(node))
            })
            .collect();
        ensure!(changes.len() == nodes.len(), "not all nodes are in the store");
        objects::commit(&store, &changes, cluster.revision).await?;
        Ok(())
    })?;
    Ok(old)
}
