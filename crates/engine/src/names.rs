//! Names for containers whose creator gave none: an adjective and the surname of somebody who did something remarkable.

use crate::identifier;

const ADJECTIVES: &[&str] = &[
    "agile", "ample", "apt", "artful", "astute", "balmy", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "careful", "cheery", "clever", "cordial", "cosy", "crisp", "curious", "daring", "deft",
    "dreamy", "eager", "earnest", "fair", "famous", "fearless", "festive", "fluent", "frank", "gentle",
    "glad", "graceful", "grateful", "hardy", "hearty", "helpful", "honest", "humble", "ideal", "jolly",
    "jovial", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow", "merry", "mighty", "modest",
    "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "radiant",
    "ready", "robust", "serene", "sharp", "sincere", "smart", "snappy", "solid", "spry", "steady", "stoic",
    "sturdy", "sunny", "swift", "tender", "thrifty", "tidy", "tireless", "upbeat", "vivid", "warm", "wise",
    "witty", "zealous", "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "ampere",
    "anning",
    "arago",
    "archimedes",
    "avicenna",
    "babbage",
    "bascom",
    "becquerel",
    "bell",
    "berners",
    "bernoulli",
    "bohr",
    "boole",
    "brahe",
    "braille",
    "brunel",
    "carson",
    "cassini",
    "cauchy",
    "chatelet",
    "cousteau",
    "cugnot",
    "curie",
    "daguerre",
    "darwin",
    "descartes",
    "diderot",
    "dijkstra",
    "dirac",
    "eiffel",
    "einstein",
    "engelbart",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "foucault",
    "fourier",
    "franklin",
    "fresnel",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "gutenberg",
    "hamilton",
    "hawking",
    "hertz",
    "hooke",
    "hopper",
    "hubble",
    "huygens",
    "hypatia",
    "jacquard",
    "joule",
    "kahn",
    "kelvin",
    "kepler",
    "khwarizmi",
    "knuth",
    "laennec",
    "lagrange",
    "lamarck",
    "lamarr",
    "laplace",
    "lavoisier",
    "leavitt",
    "leibniz",
    "linnaeus",
    "lovelace",
    "lumiere",
    "maxwell",
    "mayer",
    "meitner",
    "mendel",
    "mendeleev",
    "montgolfier",
    "morse",
    "nansen",
    "napier",
    "newton",
    "niepce",
    "nobel",
    "noether",
    "ohm",
    "papin",
    "pascal",
    "pasteur",
    "payne",
    "perey",
    "poincare",
    "ptolemy",
    "ramanujan",
    "ritchie",
    "sagan",
    "shannon",
    "somerville",
    "tesla",
    "thales",
    "tharp",
    "torvalds",
    "turing",
    "vauban",
    "vaucanson",
    "verne",
    "volta",
    "watt",
    "wegener",
    "wing",
    "wu",
    "yonath",
    "zuse",
];

/// A name that `is_taken` does not know. After a few tries a digit is appended, as Docker does.
pub(crate) fn generate(is_taken: impl Fn(&str) -> bool) -> String {
    const TRIES: usize = 6;
    for attempt in 0.. {
        let mut name = format!("{}_{}", pick(ADJECTIVES), pick(SURNAMES));
        if attempt >= TRIES {
            name.push_str(&(identifier::random_u64() % (10 << attempt.min(24))).to_string());
        }
        if !is_taken(&name) {
            return name;
        }
    }
    unreachable!("the loop above ends by returning")
}

fn pick(words: &'static [&'static str]) -> &'static str {
    let length = u64::try_from(words.len()).unwrap_or(1);
    usize::try_from(identifier::random_u64() % length).map_or(words[0], |index| words[index])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_unique_and_fit_a_name() {
        for list in [ADJECTIVES, SURNAMES] {
            let unique: HashSet<_> = list.iter().collect();
            assert_eq!(unique.len(), list.len());
            assert!(list.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        }
    }

    #[test]
    fn taken_names_are_avoided() {
        let mut taken = HashSet::new();
        for _ in 0..200 {
            let name = generate(|name| taken.contains(name));
            assert!(crate::container::validate::is_name(&name), "{name}");
            assert!(taken.insert(name));
        }
        // With all plain names taken a digit makes the difference.
        assert!(
            generate(|name| name.bytes().all(|byte| !byte.is_ascii_digit()))
                .bytes()
                .any(|byte| byte.is_ascii_digit())
        );
    }
}
