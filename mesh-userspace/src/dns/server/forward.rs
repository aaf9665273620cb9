//! Names that are not ours: asked of the host's resolvers, as /etc/resolv.conf names them at that moment.
//!
//! The resolvers are asked in the file's order. The next one is asked when one fails, or has not answered within
//! [`ForwardOptions::patience`]; the first answer counts, so a dead first resolver costs that patience and not the
//! client's time-out. An answer is also "no such name" and "no such record".
//!
//! Must not ask ourselves: gateways of our networks are never upstreams. Must not queue: above
//! [`ForwardOptions::max_concurrent`] a query fails at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::sync::Semaphore;
use tokio::time;

/// resolv.conf(5): MAXNS is 3.
const MAX_UPSTREAMS: usize = 3;
/// How often at most the file is looked at; only when there is something to forward.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Answers remembered per upstream, each for its own TTL.
const CACHED_ANSWERS: u64 = 1024;

/// Where and how patiently to ask.
#[derive(Clone, Debug)]
pub struct ForwardOptions {
    pub resolv_conf: PathBuf,
    /// Port of the upstreams.
    pub port: u16,
    /// After this long without an answer the next upstream is asked as well.
    pub patience: Duration,
    /// After this long the query has failed; below the 5 s that stub resolvers wait.
    pub deadline: Duration,
    pub max_concurrent: usize,
}

impl Default for ForwardOptions {
    fn default() -> Self {
        ForwardOptions {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            port: 53,
            patience: Duration::from_millis(800),
            deadline: Duration::from_secs(4),
            max_concurrent: 1024,
        }
    }
}

/// Why there is no answer from outside.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("{0} queries are being forwarded already")]
    Overload(usize),
    #[error("{0}")]
    NoUpstream(String),
    #[error("no resolver of the host answered: {0}")]
    NoAnswer(NetError),
    #[error("no resolver of the host answered within {0:?}")]
    TimedOut(Duration),
}

/// What a resolver of the host said.
#[derive(Debug)]
pub struct UpstreamAnswer {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    /// The SOA that lets clients remember a negative answer.
    pub authorities: Vec<Record>,
}

/// Asks the host's resolvers.
pub struct Forwarder {
    options: ForwardOptions,
    slots: Semaphore,
    upstreams: Mutex<Upstreams>,
}

#[derive(Default)]
struct Upstreams {
    looked_at: Option<Instant>,
    /// What the resolvers below were built from.
    built_from: Option<(Option<Vec<u8>>, BTreeSet<IpAddr>)>,
    excluded: BTreeSet<IpAddr>,
    addrs: Vec<IpAddr>,
    resolvers: Arc<[TokioResolver]>,
    problem: Option<String>,
}

impl Forwarder {
    pub fn new(options: ForwardOptions) -> Self {
        let slots = Semaphore::new(options.max_concurrent);
        Forwarder { options, slots, upstreams: Mutex::default() }
    }

    /// Never asks these addresses from now on.
    pub fn exclude(&self, gateways: BTreeSet<IpAddr>) {
        let mut upstreams = self.upstreams();
        upstreams.excluded = gateways;
        upstreams.looked_at = None;
    }

    /// The upstreams of the moment, and what is wrong with them.
    pub fn status(&self) -> (Vec<IpAddr>, Option<String>) {
        let mut upstreams = self.upstreams();
        upstreams.refresh(&self.options);
        (upstreams.addrs.clone(), upstreams.problem.clone())
    }

    /// Asks for one name and type.
    pub async fn ask(&self, name: &Name, record_type: RecordType) -> Result<UpstreamAnswer, ForwardError> {
        let _slot = self.slots.try_acquire().map_err(|_| ForwardError::Overload(self.options.max_concurrent))?;
        let resolvers = {
            let mut upstreams = self.upstreams();
            upstreams.refresh(&self.options);
            match &upstreams.problem {
                Some(problem) => return Err(ForwardError::NoUpstream(problem.clone())),
                None => upstreams.resolvers.clone(),
            }
        };
        let race = first_answer(&resolvers, name, record_type, self.options.patience);
        time::timeout(self.options.deadline, race).await.unwrap_or(Err(ForwardError::TimedOut(self.options.deadline)))
    }

    fn upstreams(&self) -> MutexGuard<'_, Upstreams> {
        // Held for assignments alone: what a panic left behind is whole.
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn first_answer(
    resolvers: &[TokioResolver],
    name: &Name,
    record_type: RecordType,
    patience: Duration,
) -> Result<UpstreamAnswer, ForwardError> {
    let mut waiting = resolvers.iter();
    let mut asked = FuturesUnordered::new();
    let mut last_error = NetError::NoConnections;
    loop {
        match waiting.next() {
            Some(next) => asked.push(next.lookup(name.clone(), record_type)),
            None if asked.is_empty() => return Err(ForwardError::NoAnswer(last_error)),
            None => {}
        }
        let more = waiting.len() > 0;
        let result = tokio::select! {
            Some(result) = asked.next() => result,
            () = time::sleep(patience), if more => continue,
        };
        match understand(result) {
            Ok(answer) => return Ok(answer),
            Err(error) => last_error = error,
        }
    }
}

/// A failure of this upstream is an error, for then the next one is asked.
fn understand(result: Result<Lookup, NetError>) -> Result<UpstreamAnswer, NetError> {
    match result {
        Ok(lookup) => Ok(UpstreamAnswer {
            code: lookup.message().response_code,
            answers: lookup.answers().to_vec(),
            authorities: lookup.authorities().to_vec(),
        }),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Ok(UpstreamAnswer {
            code: none.response_code,
            answers: Vec::new(),
            authorities: none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
        }),
        Err(error) => Err(error),
    }
}

impl Upstreams {
    /// Reads the file if it is time, and builds resolvers if it says something new.
    fn refresh(&mut self, options: &ForwardOptions) {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return;
        }
        self.looked_at = Some(Instant::now());
        let read = std::fs::read(&options.resolv_conf);
        let problem =
            read.as_ref().err().map(|error| format!("{} can't be read: {error}", options.resolv_conf.display()));
        let source = (read.ok(), self.excluded.clone());
        if self.built_from.as_ref() == Some(&source) {
            return;
        }
        self.problem = problem;
        self.addrs = source.0.as_deref().map(upstream_addrs).unwrap_or_default();
        self.addrs.retain(|addr| !self.excluded.contains(addr) && !addr.is_unspecified());
        self.addrs.truncate(MAX_UPSTREAMS);
        let built: Result<Vec<_>, _> = self.addrs.iter().map(|addr| resolver_for(*addr, options)).collect();
        match built {
            Ok(resolvers) => self.resolvers = resolvers.into(),
            Err(error) => self.problem = Some(format!("no resolver for {:?} can be made: {error}", self.addrs)),
        }
        if self.problem.is_none() && self.addrs.is_empty() {
            let file = options.resolv_conf.display();
            self.problem =
                Some(format!("{file} names no resolver: names outside the cluster can't be resolved by tasks"));
        }
        match &self.problem {
            Some(problem) => log::warn!("{problem}"),
            None => log::info!("names outside the cluster are asked of {:?}", self.addrs),
        }
        self.built_from = Some(source);
    }
}

fn upstream_addrs(resolv_conf: &[u8]) -> Vec<IpAddr> {
    // A file without a nameserver line is an error to the parser, and an empty list to us.
    parse_resolv_conf(resolv_conf)
        .map(|(config, _)| config.name_servers().iter().map(|server| server.ip).collect())
        .unwrap_or_default()
}

fn resolver_for(addr: IpAddr, options: &ForwardOptions) -> Result<TokioResolver, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = options.port;
        connection
    });
    let server = NameServerConfig::new(addr, true, connections.into());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut opts = ResolverOpts::default();
    opts.timeout = options.deadline;
    // Lost packets are sent again within the time-out already.
    opts.attempts = 0;
    opts.cache_size = CACHED_ANSWERS;
    // The host's /etc/hosts is about the host, not about its tasks.
    opts.use_hosts_file = ResolveHosts::Never;
    opts.max_active_requests = options.max_concurrent;
    opts.preserve_intermediates = true;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(opts).build()
}
