//! From a Dockerfile to an image: a graph of steps, what of it is in the cache, and who executes the rest.
//!
//! ```text
//! Dockerfile, arguments, ─[lower]─▶ Plan { vertices, what the image says } ─[solver]─▶ Snapshot: the image's layers
//! configurations of bases                                                     │ ▲
//!                                                   keys of vertices ─[cache]─┘ └─ Sources, Layers, Runner
//! ```
//!
//! # The plan
//!
//! [`lower`] is a function: the same file, arguments and base images give the same [`graph::Plan`]. It executes nothing; what it lacks
//! (the configuration of a base image) it asks for by name, and is called again. Only stages that the target needs are in the
//! plan. Instructions that only say something (`ENV`, `CMD`, …) change the image's configuration and what later vertices
//! say; `RUN`, `COPY`, `ADD` and `WORKDIR` become a [`graph::Vertex`] each, which depends on the one before it and on the
//! stages that it takes files from, and on nothing else. So independent stages are independent in the graph.
//!
//! # Keys
//!
//! A vertex has two keys, both digests, and its result is in the cache if it is there under either:
//!
//! - The **static** key is known before anything is executed: what the vertex says, the static keys of the vertices it
//!   depends on, digests of images, and the content of the files that it takes from a context.
//! - The **content** key is known when its inputs are: what the vertex says, *which layers* it is on, and the content of the
//!   files that it takes, wherever from. A stage that was rebuilt to the same files changes nothing for those who copy them.
//!
//! The content of files ([`content`]) is their names, kinds, modes, owners, link targets and bytes, but not their times: touching a file
//! changes no key, `chmod` changes the keys of what copies it. Proxies and secrets are in no key. A vertex that is found by its
//! static key needs none of its inputs: nothing is pulled, mounted or looked at for it.
//!
//! # The solver
//!
//! [`solver::Solver::solve`] looks from the target downwards for results in the cache, and executes what is left on as many
//! threads as it is given, a vertex when its inputs are there. Identical vertices (equal content keys) of builds at the same time
//! are executed once: the first build executes, others wait for its result; if the first is cancelled, one of them takes over. The
//! first failure stops the rest of its build.
//!
//! # The cache
//!
//! [`cache::Cache`] is a directory of small records under `<data-root>/build/`, from a key to the layers of a result. The layers
//! are the store's. A record that can't be read, or whose layers are gone, is a miss and never a failure.
//!
//! Neither key has anything of the host in it, so both lead to the same result wherever they are known. [`remote_cache`] is the form in which
//! results with their keys go elsewhere; where the cache here does not know a key, [`backend::Imports`] is asked, and what it brings is recorded.
//! After a build [`solver::Solver::keyed`] tells every result with its keys.
//!
//! **Absent:** processes, mounts, the network and the store. They are behind four traits ([`backend`]), which the engine implements:
//! `Sources` (contexts, images), `Layers` (files), `Runner` (commands), `Imports` (caches elsewhere).

#![forbid(unsafe_code)]

pub mod backend;
pub mod cache;
pub mod cancel;
pub mod content;
pub mod graph;
pub mod image;
pub mod lower;
pub mod mode;
pub mod placement;
pub mod remote_cache;
pub mod solver;

mod flight;

#[cfg(test)]
mod testing;
