//! The core: containers, images and volumes as objects with a lifecycle, durable across restarts.

#![forbid(unsafe_code)]
