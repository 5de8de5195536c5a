//! Signals: names, masks, dispositions.
