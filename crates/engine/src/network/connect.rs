//! Connecting a container to a network and disconnecting it, while it runs or not.
//!
//! A container that runs gets its interface at once; if the new endpoint leads outside from now on (its priority is higher
//! than the others'), the default route and the published ports move to it, and back when it goes. A container that doesn't
//! run is only noted to be on the network.

use std::sync::Arc;

use palan_linux::namespace::{self, Kind};
use palan_network::files::{self, Hosts};
use palan_network::{Container, EndpointRecord, Manager, PublishedPort, Sandbox};
use palan_supervisor::protocol::Request;

use crate::container::driver::{Action, Driver, Pending};
use crate::container::index::Reply;
use crate::container::start::extra_hosts;
use crate::container::stop::is_restarting;
use crate::container::{Details, Endpoint, Status, create};
use crate::db::Change;
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::network::{Network, endpoints, ports, relay};
use crate::spec::EndpointSettings;
use crate::{Class, Error, Result};

/// What a driver is asked for.
#[derive(Debug)]
pub(crate) struct Connection {
    network: Arc<Network>,
    settings: EndpointSettings,
}

/// The same for the other way.
#[derive(Debug)]
pub(crate) struct Disconnection {
    network: Arc<Network>,
}

impl Engine {
    /// Connects a container to a network.
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        settings: EndpointSettings,
    ) -> Result<()> {
        let network = self.networks.find(network)?;
        let handle = self.index.find(container)?;
        endpoints::check(&network, &settings)?;
        let connection = Connection { network, settings };
        handle.ask(|reply| Action::Connect { connection, reply }).await
    }

    /// Disconnects a container from a network. There is nothing to force: an endpoint is never left without its container.
    pub async fn disconnect_network(&self, network: &str, container: &str) -> Result<()> {
        let network = self.networks.find(network)?;
        let handle = self.index.find(container)?;
        let disconnection = Disconnection { network };
        handle.ask(|reply| Action::Disconnect { disconnection, reply }).await
    }
}

impl Driver {
    pub(crate) async fn connect(&mut self, connection: Connection, reply: Reply<()>) {
        let outcome = self.try_connect(connection).await;
        // The caller may have gone.
        let _ = reply.send(outcome);
    }

    pub(crate) async fn disconnect(&mut self, disconnection: Disconnection, reply: Reply<()>) {
        let outcome = self.try_disconnect(disconnection).await;
        // The caller may have gone.
        let _ = reply.send(outcome);
    }

    async fn try_connect(&mut self, connection: Connection) -> Result<()> {
        let Connection { network, settings } = connection;
        let details = self.details();
        let forbidden = |text: &str| Error::new(Class::Forbidden, text);
        check_mode(&details, &network)?;
        if details.state.status == Status::Restarting {
            return Err(is_restarting(&details.id));
        }
        if details.endpoints.values().any(|endpoint| endpoint.network_id == network.id) {
            return Err(forbidden(&format!(
                "endpoint with name {} already exists in network {}",
                details.name, network.name
            )));
        }
        let mut next = (*details).clone();
        let leaves_none = details.host.network_mode == "none";
        if leaves_none {
            return Err(forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        let endpoint = Endpoint { settings, network_id: network.id.clone(), ..Endpoint::default() };
        next.endpoints.insert(network.name.clone(), endpoint);
        let change = Change::new();
        if !details.state.status.is_live() {
            return self.commit_connected(next, change, &network).await;
        }
        let had_resolver = endpoints::has_resolver(&self.engine, &details);
        let (engine, name, earlier) = (self.engine.clone(), network.name.clone(), details.clone());
        let (next, sockets, relayed, relays) = blocking(move || {
            let mut next = next;
            let relayed = relay::of(&engine, &earlier);
            let mut sandbox = sandbox_of(&next)?;
            plug_in(&engine, &mut sandbox, &mut next, &name)?;
            let finished = finish_connection(&engine, &sandbox, &next, had_resolver);
            match finished {
                Ok(sockets) => {
                    let relays = relay::of(&engine, &next);
                    Ok((next, sockets, relayed, relays))
                }
                Err(error) => {
                    unplug(&engine, &mut sandbox, &mut next, &name).unwrap_or_else(|error| {
                        tracing::warn!(error = error.report(), "a failed connection was not undone");
                    });
                    Err(error)
                }
            }
        })
        .await?;
        let change = change.event(network.container_event("connect", &details.id));
        self.commit_connected(next, change, &network).await?;
        self.relay(&relayed, relays);
        if let Some(sockets) = sockets {
            self.request(Request::Resolve, vec![sockets.udp, sockets.tcp], Pending::Nobody);
        }
        Ok(())
    }

    async fn try_disconnect(&mut self, disconnection: Disconnection) -> Result<()> {
        let Disconnection { network } = disconnection;
        let details = self.details();
        let on_it = |endpoint: &Endpoint| endpoint.network_id == network.id;
        let Some(name) =
            details.endpoints.iter().find(|(_, endpoint)| on_it(endpoint)).map(|(name, _)| name.clone())
        else {
            let text = format!("container {} is not connected to network {}", details.id, network.name);
            return Err(Error::new(Class::Forbidden, text));
        };
        if details.host.network_mode == "host" {
            return Err(Error::new(
                Class::Forbidden,
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        if details.state.status == Status::Restarting {
            return Err(is_restarting(&details.id));
        }
        let mut next = (*details).clone();
        if !details.state.status.is_live() {
            let addresses = next.endpoints.remove(&name).map(|endpoint| endpoint.lease).unwrap_or_default();
            self.engine.network.forget(&network.id, &addresses);
            return self.commit_connected(next, Change::new(), &network).await;
        }
        let engine = self.engine.clone();
        let (next, relayed, relays) = blocking(move || {
            let relayed = relay::of(&engine, &next);
            let mut sandbox = sandbox_of(&next)?;
            unplug(&engine, &mut sandbox, &mut next, &name)?;
            write_files(&engine, &next)?;
            let relays = relay::of(&engine, &next);
            Ok((next, relayed, relays))
        })
        .await?;
        let change = Change::new().event(network.container_event("disconnect", &details.id));
        self.commit_connected(next, change, &network).await?;
        self.relay(&relayed, relays);
        Ok(())
    }

    async fn commit_connected(&mut self, next: Details, change: Change, network: &Network) -> Result<()> {
        self.commit_details(next, change).await;
        self.engine.publish_names(vec![network.id.clone()]).await;
        Ok(())
    }
}

fn check_mode(details: &Details, network: &Network) -> Result<()> {
    let forbidden = |text: &str| Err(Error::new(Class::Forbidden, text));
    if details.host.network_mode == "host" || network.name == "host" {
        return forbidden("container cannot be disconnected from host network or connected to host network");
    }
    if details.host.network_mode.starts_with("container:") {
        return forbidden(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        );
    }
    if network.name == "none" {
        return forbidden(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        );
    }
    Ok(())
}

/// The namespace of a running container.
pub(crate) fn sandbox_of(details: &Details) -> Result<Sandbox> {
    let what = || format!("cannot enter the network namespace of container {}", details.name);
    let pid = u32::try_from(details.state.pid).unwrap_or(0);
    if pid == 0 {
        return Err(Error::conflict(format!("container {} is not running", details.id)));
    }
    let descriptor = namespace::open(pid, Kind::Network).context(what)?;
    Sandbox::open(descriptor).context(what)
}

/// Adds the endpoint, and moves the way outside if it is now there.
fn plug_in(engine: &Engine, sandbox: &mut Sandbox, details: &mut Details, name: &str) -> Result<()> {
    let before = endpoints::records(details);
    let Some(endpoint) = details.endpoints.get(name) else { return Ok(()) };
    let request = endpoints::request(name, endpoint)?;
    let (id, own_name) = (details.id.clone(), details.name.clone());
    let container = Container { id: &id, name: &own_name };
    let record = engine
        .network
        .connect(sandbox, container, &request)
        .map_err(|source| Error::system("failed to set up container networking").with_source(source))?;
    endpoints::note(details, name, &record);
    let moved = lead_outside(engine, sandbox, details, &before);
    if moved.is_err() {
        // The first error is the one to report.
        let _ = engine.network.disconnect(sandbox, &record);
        restore_way(engine, sandbox, details, name);
    }
    moved
}

/// After a failure: as it was without the endpoint.
fn restore_way(engine: &Engine, sandbox: &mut Sandbox, details: &mut Details, name: &str) {
    let before = endpoints::records(details);
    details.endpoints.remove(name);
    if let Err(error) = lead_outside(engine, sandbox, details, &before) {
        tracing::warn!(error = error.report(), "the container's way outside was not restored");
    }
}

/// Takes the endpoint away, and moves the way outside to another one.
fn unplug(engine: &Engine, sandbox: &mut Sandbox, details: &mut Details, name: &str) -> Result<()> {
    let before = endpoints::records(details);
    let Some(endpoint) = details.endpoints.remove(name) else { return Ok(()) };
    if let Some(record) = endpoint.record.and_then(|record| record.read()) {
        engine
            .network
            .disconnect(sandbox, &record)
            .map_err(|source| Error::system("cannot disconnect the container").with_source(source))?;
    }
    lead_outside(engine, sandbox, details, &before)
}

/// Sets the default route, and publishes the ports where it leads. `before` is how the endpoints were.
fn lead_outside(
    engine: &Engine,
    sandbox: &mut Sandbox,
    details: &mut Details,
    before: &[EndpointRecord],
) -> Result<()> {
    let failed = || "failed to set up container networking".to_owned();
    let mut records = endpoints::records(details);
    Manager::set_gateways(sandbox, &records.iter().collect::<Vec<_>>()).context(failed)?;
    let old = endpoints::gateway_of(before).map(|record| record.endpoint_id.clone());
    let new = endpoints::gateway_of(&records).map(|record| record.endpoint_id.clone());
    if old != new {
        let bindings = ports::port_bindings(details)?;
        let (id, name) = (details.id.clone(), details.name.clone());
        let container = Container { id: &id, name: &name };
        let held = before.iter().flat_map(|record| engine.network.relays(record));
        let held: Vec<PublishedPort> = held.map(|relay| relay.port).collect();
        for record in &mut records {
            if Some(&record.endpoint_id) != new.as_ref() && !record.ports.is_empty() {
                engine.network.unpublish(record).context(failed)?;
            }
        }
        for record in &mut records {
            if Some(&record.endpoint_id) == new.as_ref() && record.ports.is_empty() && !bindings.is_empty() {
                let published = engine.network.publish(container, record, &bindings, &held);
                published.map_err(|source| Error::system(failed()).with_source(source))?;
            }
        }
        for record in &records {
            let found =
                details.endpoints.iter().find(|(_, endpoint)| endpoint.network_id == record.network_id);
            if let Some(name) = found.map(|(name, _)| name.clone()) {
                endpoints::note(details, &name, record);
            }
        }
    }
    endpoints::note_ports(details);
    Ok(())
}

/// The files of a container that has one endpoint more, and the resolver if it had none before.
fn finish_connection(
    engine: &Engine,
    sandbox: &Sandbox,
    details: &Details,
    had_resolver: bool,
) -> Result<Option<palan_network::resolver::ResolverSockets>> {
    let has_resolver = endpoints::has_resolver(engine, details);
    let sockets = if has_resolver && !had_resolver {
        create::write_resolv_conf(engine, details)?;
        Some(sandbox.resolver().context(|| "cannot make the container's resolver".into())?)
    } else {
        None
    };
    write_files(engine, details)?;
    Ok(sockets)
}

fn write_files(engine: &Engine, details: &Details) -> Result<()> {
    if endpoints::has_resolver(engine, details) {
        engine.write_resolver_config(details)?;
    }
    let mut own = endpoints::own_hosts(details);
    own.extend(endpoints::linked_hosts(engine, details).unwrap_or_default());
    let text = files::hosts(&Hosts { own: &own, extra: &extra_hosts(engine, details) });
    // In place, since the container has the file itself mounted.
    palan_stdx::fs::write(std::path::Path::new(&details.hosts_path), text)
        .context(|| "cannot write the hosts file".into())
}
