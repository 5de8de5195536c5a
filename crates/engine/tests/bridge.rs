//! Containers on the default bridge, and published ports.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use palan_engine::spec::PortBinding;
use support::{fixture, spec, within};

fn get(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET /etc/plain HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_port_answers() {
    let Some(fixture) = fixture("a_published_port_answers").await else { return };
    let mut asked = spec(&["busybox", "httpd", "-f", "-p", "80", "-h", "/"]);
    asked.host.network_mode = "default".into();
    asked.host.port_bindings.insert("80/tcp".into(), vec![PortBinding::default()]);
    let id = fixture.run(asked.clone()).await;
    let details = fixture.engine.inspect(&id).await.expect("known");
    let published = details.ports["80/tcp"].as_ref().expect("published");
    let port: u16 = published[0].host_port.parse().expect("a port");
    assert!(!details.endpoints["bridge"].ip_address.is_empty());
    let answer = tokio::task::spawn_blocking(move || {
        for _ in 0..500 {
            if let Some(answer) = get(port).filter(|answer| !answer.is_empty()) {
                return Some(answer);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    let answer = within(answer).await.expect("ended").expect("an answer");
    assert!(answer.contains("no program"), "{answer}");

    asked
        .host
        .port_bindings
        .insert("80/tcp".into(), vec![PortBinding { host_ip: String::new(), host_port: port.to_string() }]);
    let other = fixture.engine.create(asked).await.expect("created").id;
    let error = fixture.engine.start_container(&other).await.expect_err("the port is taken");
    assert!(error.report().contains("port is already allocated"), "{}", error.report());
    fixture.remove(&id).await;
    fixture.engine.start_container(&other).await.expect("the port is free");

    // After a restart the endpoint is still there.
    let fixture = fixture.restarted().await;
    let answer = tokio::task::spawn_blocking(move || {
        for _ in 0..500 {
            if let Some(answer) = get(port).filter(|answer| !answer.is_empty()) {
                return Some(answer);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    assert!(within(answer).await.expect("ended").is_some());
    let bridge = fixture.engine.inspect_network("bridge").await.expect("the default bridge");
    assert_eq!(bridge.containers.len(), 1);
    fixture.finish().await;
}
