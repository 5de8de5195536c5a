//! A web server of one page that also echoes datagrams, for the demonstration of published ports.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its log is what `palan logs` shows")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 8080))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", 8080))?;
    std::thread::spawn(move || echo(&datagrams));
    println!("listening on port 8080");
    for connection in listener.incoming() {
        // A client that goes away is the client's business.
        connection.and_then(answer).ok();
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    let peer = connection.peer_addr()?;
    let mut request = String::new();
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    if let Some(line) = lines.next() {
        request = line?;
    }
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    println!("{request} from {}", peer.ip());
    let page = "Hello from a container of Palan!\n";
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n", page.len())?;
    write!(connection, "Connection: close\r\n\r\n{page}")
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], peer).ok();
        }
    }
}
