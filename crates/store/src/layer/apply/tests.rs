//! Layers applied: what is written, what is refused, and that nothing outside is touched.
