//! Archives by hand and by other programs.
