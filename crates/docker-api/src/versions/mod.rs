//! What older API versions answered: each module takes an answer of the version after it and makes it the older one's.
//!
//! Handlers build the newest types; the functions here take them down step by step to what the client speaks.
