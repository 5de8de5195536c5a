//! Tests of scoped paths: nothing outside the root is reachable, whatever the tree looks like.

use super::*;
