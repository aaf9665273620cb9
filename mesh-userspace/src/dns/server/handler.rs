//! A query on the wire → the zone's answer, or the host's resolvers' → a response on the wire.
//!
//! Invariant: every query that parses gets exactly one response and one count. The size of a UDP response is what the
//! client can take (512 bytes, or its EDNS size up to [`MAX_UDP_PAYLOAD`]); where answers don't fit the response is
//! marked truncated, and the client comes back over TCP.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, PTR};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::Shared;
use super::counts::Outcome;
use super::forward::ForwardError;
use crate::dns::zone::{Answer, QueryType, Question, answer};

/// Largest UDP response: fits a packet of an overlay (MTU 1450 and less) and the DNS flag day's advice.
const MAX_UDP_PAYLOAD: u16 = 1232;

/// Answers queries of all listeners.
#[derive(Clone)]
pub(super) struct Handler(pub(super) Arc<Shared>);

struct Reply {
    outcome: Outcome,
    code: ResponseCode,
    /// The answer is our own, not an upstream's.
    ours: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

impl Reply {
    fn ours(outcome: Outcome, code: ResponseCode, answers: Vec<Record>) -> Self {
        Reply { outcome, code, ours: true, answers, authorities: Vec::new() }
    }

    fn failed(outcome: Outcome, code: ResponseCode) -> Self {
        Reply { outcome, code, ours: false, answers: Vec::new(), authorities: Vec::new() }
    }

    /// Drops what doesn't fit, and says whether it dropped any answer. The encoder cuts too, but it fills the space to
    /// the brim and then has none for the OPT record, which must be in a truncated response as well (RFC 6891, 7).
    fn shorten_to(&mut self, limit: usize, request: &Request, edns: Option<&Edns>) -> bool {
        let fits = |answers: &[Record], authorities: &[Record]| {
            let mut message = Message::response(request.metadata.id, OpCode::Query);
            message.add_queries(request.queries.queries().iter().map(|query| query.original().clone()));
            message.add_answers(answers.iter().cloned()).add_authorities(authorities.iter().cloned());
            message.edns = edns.cloned();
            // What can't be encoded is the encoder's to report, when it is sent.
            message.to_vec().map_or(true, |bytes| bytes.len() <= limit)
        };
        if fits(&self.answers, &self.authorities) {
            return false;
        }
        self.authorities.clear();
        if fits(&self.answers, &[]) {
            return false;
        }
        let (mut fitting, mut too_many) = (0, self.answers.len());
        while too_many - fitting > 1 {
            let middle = fitting + (too_many - fitting) / 2;
            match fits(&self.answers[..middle], &[]) {
                true => fitting = middle,
                false => too_many = middle,
            }
        }
        self.answers.truncate(fitting);
        true
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let mut reply = self.reply(request).await;
        self.0.counters.count(reply.outcome);

        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.ours;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP_PAYLOAD));
            edns
        });
        if request.protocol() == Protocol::Udp {
            let limit = edns.as_ref().map_or(512, Edns::max_payload);
            metadata.truncation = reply.shorten_to(usize::from(limit), request, edns.as_ref());
        }
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let message = builder.build(metadata, &reply.answers, &reply.authorities, [], []);
        response.send_response(message).await.unwrap_or_else(|error| {
            log::debug!("the response to {} could not be sent: {error}", request.src());
            let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let unsupported = |code| Reply::failed(Outcome::Unsupported, code);
        if request.metadata.op_code != OpCode::Query {
            return unsupported(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return unsupported(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else {
            return unsupported(ResponseCode::FormErr);
        };
        if query.query_class() != DNSClass::IN || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return unsupported(ResponseCode::Refused);
        }
        let asker = request.src().ip();

        // As the client spelt it: some check that the response repeats their mixture of cases.
        let name = query.original().name();
        let text = name.to_ascii();
        let question = Question { asker, name: &text, query_type: query_type(query.query_type()) };
        match answer(&self.0.zone(), question, rand::random()) {
            Answer::Addresses { addrs, ttl_s } => Reply::ours(
                Outcome::Answered,
                ResponseCode::NoError,
                addrs.into_iter().map(|addr| Record::from_rdata(name.clone(), ttl_s, address(addr))).collect(),
            ),
            Answer::Pointer { name: target, ttl_s } => match Name::from_str(&format!("{target}.")) {
                Ok(target) => {
                    let record = Record::from_rdata(name.clone(), ttl_s, RData::PTR(PTR(target)));
                    Reply::ours(Outcome::Answered, ResponseCode::NoError, vec![record])
                }
                // A name too long for DNS (service and network together): the address has no name that can be told.
                Err(_) => Reply::ours(Outcome::NoData, ResponseCode::NoError, Vec::new()),
            },
            Answer::NoData => Reply::ours(Outcome::NoData, ResponseCode::NoError, Vec::new()),
            Answer::NxDomain => Reply::ours(Outcome::NxDomain, ResponseCode::NXDomain, Vec::new()),
            Answer::Refused => Reply::failed(Outcome::Refused, ResponseCode::Refused),
            Answer::ServFail => Reply::failed(Outcome::Internal, ResponseCode::ServFail),
            Answer::Forward => self.forward(asker, name, query.query_type()).await,
        }
    }

    async fn forward(&self, asker: IpAddr, name: &Name, record_type: RecordType) -> Reply {
        match self.0.forwarder.ask(name, record_type).await {
            Ok(said) => Reply {
                outcome: Outcome::Forwarded,
                code: said.code,
                ours: false,
                answers: said.answers,
                authorities: said.authorities,
            },
            Err(error) => {
                log::debug!("{asker} asked for {name} {record_type}: {error}");
                let outcome = match error {
                    ForwardError::Overload(_) => Outcome::ForwardOverload,
                    _ => Outcome::ForwardFailed,
                };
                Reply::failed(outcome, ResponseCode::ServFail)
            }
        }
    }
}

fn address(addr: IpAddr) -> RData {
    match addr {
        IpAddr::V4(addr) => RData::A(A(addr)),
        IpAddr::V6(addr) => RData::AAAA(AAAA(addr)),
    }
}

fn query_type(record_type: RecordType) -> QueryType {
    match record_type {
        RecordType::A => QueryType::A,
        RecordType::AAAA => QueryType::Aaaa,
        RecordType::PTR => QueryType::Ptr,
        RecordType::ANY => QueryType::Any,
        _ => QueryType::Other,
    }
}
