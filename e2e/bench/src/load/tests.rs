//! The load against small servers in this process.

use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::fakes::authority::Authority;
use crate::fakes::{Fakes, NodeAgent};
use crate::floor;

const TIMES: Times =
    Times { settle: Duration::from_millis(20), measure: Duration::from_millis(100) };

const REQUEST: &str = "GET /metadata/identity/oauth2/token HTTP/1.1\r\nhost: x\r\n\r\n";

fn floor_server(fakes: &Fakes) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    fakes.spawn(async move {
        listener.set_nonblocking(true).unwrap();
        floor::serve(tokio::net::TcpListener::from_std(listener).unwrap()).await.unwrap();
    });
    Server { address, tls: None }
}

fn plan(server: Server, callers: Vec<Caller>, in_flight: usize) -> Plan {
    Plan { server, callers, in_flight, connections: Connections::Kept }
}

#[test]
fn kept_and_new_connections_are_answered() {
    let fakes = Fakes::start().unwrap();
    let server = floor_server(&fakes);
    for connections in [Connections::Kept, Connections::New] {
        let callers = vec![Caller::of(REQUEST); 3];
        let plan = Plan { connections, ..plan(server.clone(), callers, 3) };
        let load = run(&plan, TIMES, || Ok(())).unwrap();
        let [least, middle, most] = load.latencies.percentiles([0, 50, 100]);
        assert!(load.latencies.len() > 3, "{connections:?}");
        assert!(Duration::ZERO < least && least <= middle && middle <= most, "{connections:?}");
        assert!(load.elapsed >= TIMES.measure, "{connections:?}");
    }
}

#[test]
fn more_connections_than_requests_take_turns_over_tls() {
    let fakes = Fakes::start().unwrap();
    let authority = Authority::new().unwrap();
    let agent = NodeAgent::start(&fakes, &authority, Duration::ZERO).unwrap();
    let body = r#"{"resource":"x"}"#;
    let request = format!(
        "POST /v1/token HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let callers = (1..=5).map(|host| Caller {
        source: Some(Ipv4Addr::new(127, 1, 0, host).into()),
        ..Caller::of(&request)
    });
    let server = Server { address: agent.address(), tls: Some(authority.client().unwrap()) };
    let load = run(&plan(server, callers.collect(), 2), TIMES, || Ok(agent.token_calls())).unwrap();
    assert!(load.latencies.len() > 5);
    let [before, after] = [load.before, load.after].map(|calls| usize::try_from(calls).unwrap());
    let (seen, counted) = (after - before, load.latencies.len());
    assert!(seen.abs_diff(counted) <= 2, "{seen} {counted}: but for those at begin and end");
}

#[test]
fn a_refusal_ends_the_load() {
    let fakes = Fakes::start().unwrap();
    let caller = Caller::of("GET /elsewhere HTTP/1.1\r\nhost: x\r\n\r\n");
    let error = run(&plan(floor_server(&fakes), vec![caller], 1), TIMES, || Ok(())).unwrap_err();
    assert!(error.to_string().contains("404 Not Found"), "{error}");
}
