//! A relay between sockets of this machine's loopback.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&to, PATIENCE).unwrap()
}

/// A relay with the loop that serves it.
struct Served {
    outer: Rc<Epoll>,
    relay: Relay,
}

impl Served {
    fn new() -> Self {
        let outer = Rc::new(Epoll::new().unwrap());
        let relay = Relay::new(&outer).unwrap();
        Self { outer, relay }
    }

    fn open_tcp(&mut self, target: SocketAddr) -> RelayedPort {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = listener.local_addr().unwrap();
        let port = RelayedPort { protocol: RelayProtocol::Tcp, host, target, socket: true };
        self.relay.open(&port, Some(listener.into())).unwrap();
        port
    }

    /// Serves while `client` runs, and gives what it gives.
    fn during<T: Send + 'static>(&mut self, client: impl FnOnce() -> T + Send + 'static) -> T {
        let client = std::thread::spawn(client);
        let mut turns = 0;
        while !client.is_finished() {
            let mut ready = Vec::new();
            self.outer.wait(&mut ready, Some(Duration::from_millis(10))).unwrap();
            if !ready.is_empty() {
                turns += 1;
                self.relay.ready();
            }
            self.relay.expire(Instant::now());
        }
        assert!(turns < 100_000, "a busy loop");
        client.join().unwrap()
    }
}

/// A server that reads everything, and then says how much that was and `answer` bytes more.
fn counter(answer: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // Whoever resets has been told all there was.
                let _ = stream.read_to_end(&mut bytes);
                let _ = stream.write_all(format!("{} ", bytes.len()).as_bytes());
                let _ = stream.write_all(&vec![b'x'; answer]);
            });
        }
    });
    address
}

/// Sends `length` bytes, ends its side, and reads to the end.
fn exchange(to: SocketAddr, length: usize) -> String {
    let mut stream = connect(to);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![b'y'; length]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_side_that_has_said_all_still_hears() {
    let mut served = Served::new();
    let port = served.open_tcp(counter(3_000_000));
    let text = served.during(move || exchange(port.host, 2_000_000));
    assert!(text.starts_with("2000000 x"), "{text:.20}");
    assert_eq!(text.len(), "2000000 ".len() + 3_000_000);
    assert!(!served.relay.is_unused());
    served.relay.close(&port);
    assert!(served.relay.is_unused(), "the connection is forgotten");
}

#[test]
fn a_client_that_reads_nothing_keeps_nobody_busy() {
    let mut served = Served::new();
    let port = served.open_tcp(counter(30_000_000));
    let length = served.during(move || {
        let mut stream = connect(port.host);
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    assert_eq!(length, "0 ".len() + 30_000_000);
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let mut served = Served::new();
    let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = served.open_tcp(target);
    let kind = served.during(move || {
        // The reset may come before the connection is looked at for the first time.
        let stream = TcpStream::connect_timeout(&port.host, PATIENCE);
        stream.and_then(|mut stream| stream.read(&mut [0; 1])).unwrap_err().kind()
    });
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
}

#[test]
fn more_connections_than_the_most_wait_their_turn() {
    let mut served = Served::new();
    served.relay.streams.set_most(2);
    let port = served.open_tcp(counter(0));
    let texts = served.during(move || {
        let first: Vec<TcpStream> = (0..2).map(|_| connect(port.host)).collect();
        let third = std::thread::spawn(move || exchange(port.host, 5));
        std::thread::sleep(Duration::from_millis(200));
        let waits = !third.is_finished();
        drop(first);
        (waits, third.join().unwrap())
    });
    assert_eq!(texts, (true, "5 ".to_owned()));
}

#[test]
fn a_port_changes_its_target() {
    let mut served = Served::new();
    let mut port = served.open_tcp(counter(0));
    port.target = counter(3);
    served.relay.open(&port, None).unwrap();
    assert_eq!(served.during(move || exchange(port.host, 1)), "1 xxx");
    served.relay.close(&port);
    assert_eq!(served.relay.open(&port, None), Err(Errno::NOENT));
    assert!(TcpStream::connect_timeout(&port.host, PATIENCE).is_err());
}

#[test]
fn each_udp_client_gets_its_own_answers() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..length], from).unwrap();
        }
    });
    let mut served = Served::new();
    let socket = UdpSocket::bind("[::]:0").unwrap();
    let host = SocketAddr::from((Ipv6Addr::UNSPECIFIED, socket.local_addr().unwrap().port()));
    let port = RelayedPort { protocol: RelayProtocol::Udp, host, target, socket: true };
    served.relay.open(&port, Some(socket.into())).unwrap();
    served.during(move || {
        let client = || {
            let client = UdpSocket::bind("[::1]:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.connect((Ipv6Addr::LOCALHOST, host.port())).unwrap();
            client
        };
        let clients = [client(), client()];
        for (number, client) in clients.iter().enumerate() {
            client.send(&[b'a'; 1000][..=number]).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(client.recv(&mut [0; 2000]).unwrap(), number + 1);
        }
    });
    assert_eq!(served.relay.datagrams.len(), 2);
    served.relay.expire(Instant::now() + Duration::from_secs(91));
    assert_eq!(served.relay.datagrams.len(), 0, "silence ends a flow");
}

#[test]
fn more_udp_clients_than_the_most_push_out_the_oldest() {
    let mut served = Served::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("[::]:0").unwrap();
    let host = socket.local_addr().unwrap();
    let port = RelayedPort {
        protocol: RelayProtocol::Udp,
        host,
        target: silent.local_addr().unwrap(),
        socket: true,
    };
    served.relay.open(&port, Some(socket.into())).unwrap();
    served.during(move || {
        for _ in 0..300 {
            let client = UdpSocket::bind("[::1]:0").unwrap();
            client.send_to(b"x", (Ipv6Addr::LOCALHOST, host.port())).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert!((1..=256).contains(&served.relay.datagrams.len()), "{}", served.relay.datagrams.len());
}
