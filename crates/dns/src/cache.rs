//! Replies of upstreams that are still good: few, small, and for a minute at most.
//!
//! Only replies that found something are kept, as long as they say themselves. The key is the question and whether EDNS was
//! asked for, since an answer has to match that, too.

use std::time::{Duration, Instant};

use crate::message;

/// How many replies are kept.
const MOST: usize = 64;
/// How long one is kept at most: a change shall not stay unseen for long.
const LONGEST_TIME: Duration = Duration::from_secs(60);

/// What is kept.
#[derive(Debug, Default)]
pub struct Cache {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: Vec<u8>,
    reply: Vec<u8>,
    until: Instant,
}

impl Cache {
    /// The reply to a query, with the query's own id and spelling.
    #[must_use]
    pub fn find(&self, query: &[u8], now: Instant) -> Option<Vec<u8>> {
        let key = message::key(query)?;
        let entry = self.entries.iter().find(|entry| entry.until > now && entry.key == key)?;
        let mut reply = entry.reply.clone();
        message::readdress(&mut reply, query);
        Some(reply)
    }

    /// Keeps a reply, if it is of use to others who ask the same.
    pub fn keep(&mut self, query: &[u8], reply: &[u8], now: Instant) {
        let (Some(key), Some(seconds)) = (message::key(query), message::time_to_live(reply)) else { return };
        let limit = message::Query::parse(query).map_or(0, |query| query.udp_limit());
        if reply.len() > limit || seconds == 0 {
            return;
        }
        self.entries.retain(|entry| entry.until > now && entry.key != key);
        if self.entries.len() >= MOST
            && let Some(oldest) =
                self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.until).map(|(index, _)| index)
        {
            self.entries.swap_remove(oldest);
        }
        let until = now + Duration::from_secs(seconds.into()).min(LONGEST_TIME);
        self.entries.push(Entry { key, reply: reply.to_vec(), until });
    }

    /// Gives the memory of what is no longer good back.
    pub fn forget_old(&mut self, now: Instant) {
        self.entries.retain(|entry| entry.until > now);
        self.entries.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::query;
    use crate::message::{Code, Query, Record};

    fn reply(query: &[u8], records: &[Record]) -> Vec<u8> {
        message::answer(query, &Query::parse(query).unwrap(), Code::NoError, records, usize::MAX)
    }

    #[test]
    fn a_reply_serves_others_for_a_while() {
        let now = Instant::now();
        let mut cache = Cache::default();
        let asked = query("example.com", 1, None);
        let found = reply(&asked, &[Record::A([192, 0, 2, 1].into())]);
        cache.keep(&asked, &found, now);
        let mut other = query("EXAMPLE.com", 1, None);
        message::set_id(&mut other, 7);
        let served = cache.find(&other, now).unwrap();
        assert!(message::is_reply_to(&served, &other, 7) && served.len() == found.len());
        assert_eq!(served[message::HEADER + 1..][..7], *b"EXAMPLE", "as it was asked");
        assert_eq!(cache.find(&query("example.com", 28, None), now), None, "another type");
        assert_eq!(cache.find(&query("example.com", 1, Some(1232)), now), None, "with EDNS");
        assert_eq!(cache.find(&asked, now + LONGEST_TIME), None, "ten minutes are too long");
        cache.forget_old(now + LONGEST_TIME);
        assert!(cache.entries.is_empty());
    }

    #[test]
    fn what_is_of_no_use_is_not_kept() {
        let now = Instant::now();
        let mut cache = Cache::default();
        let asked = query("example.com", 1, None);
        cache.keep(&asked, &reply(&asked, &[]), now);
        cache.keep(&asked, &message::failure(&asked, Code::ServerFailure).unwrap(), now);
        cache.keep(&asked, &asked[..5], now);
        assert!(cache.entries.is_empty());
        for number in 0..100 {
            let asked = query(&format!("host{number}.example"), 1, None);
            cache.keep(&asked, &reply(&asked, &[Record::A([192, 0, 2, 1].into())]), now);
        }
        assert_eq!(cache.entries.len(), MOST);
    }
}
