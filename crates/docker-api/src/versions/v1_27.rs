//! Up to 1.27: the list of networks has the containers of each, as its inspect answer.

use crate::types::Network;

pub(super) fn networks(answer: &mut [Network]) {
    for network in answer {
        network.containers.get_or_insert_default();
    }
}
