//! Lists: questions that the kernel answers in parts.
//!
//! On a socket it answers one of them at a time and refuses the next with EBUSY (`__netlink_dump_start`, net/netlink/af_netlink.c). All of an agent's rounds,
//! checks and farewells share one socket, and one that was called off may still be answered: so who is refused asks again.

use std::time::Duration;

use futures_util::{TryStream, TryStreamExt};
use tokio::time::Instant;

use super::error::{NetError, errno};

/// For all lists before ours: thousands of links and routes take some milliseconds each.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Everything that the kernel answers to `ask`, which is asked again while another list is on its way.
pub(super) async fn list<T, S>(what: &str, ask: impl Fn() -> S) -> Result<Vec<T>, NetError>
where
    S: TryStream<Ok = T, Error = rtnetlink::Error>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().try_collect().await {
            Err(error) if errno(&error) == libc::EBUSY && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            done => return done.map_err(|error| NetError::netlink(format!("list {what}"), error)),
        }
    }
}
