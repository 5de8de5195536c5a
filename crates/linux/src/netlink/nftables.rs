//! nftables: transactions of changes, rules as lists of expressions, and what the kernel has.
//!
//! A rule is a list of expressions that work on registers: `meta`, `payload`, `ct` and `fib` load one, `compare` and
//! `lookup` test one and end the rule when the test fails, the rest acts. There are sixteen registers of four
//! bytes, [`Register`]; longer values take several in a row.

use rustix::io::Errno;

use super::message::{Attributes, Batch, Parsed, attribute, standalone};
use super::socket::{NetlinkError, Socket};

/// The multicast group that tells of changes, for [`Socket::listen`]; each transaction ends with a message of type
/// [`NEW_GENERATION`].
pub const GROUP: u32 = 7;
/// The type of the message that ends a transaction's notifications.
pub const NEW_GENERATION: u16 = SUBSYSTEM | NFT_MSG_NEWGEN;

/// `NFNL_SUBSYS_NFTABLES`, the upper half of each message's type.
const SUBSYSTEM: u16 = 10 << 8;
/// The length of `struct nfgenmsg`: family, version, resource.
const GENERAL: usize = 4;
/// Elements in one message: their list must stay below the 64 KiB of an attribute.
const ELEMENTS_PER_MESSAGE: usize = 500;
/// `NFTNL_UDATA_RULE_COMMENT`, the tag under which nft and iptables-nft keep a rule's comment.
const COMMENT_TAG: u8 = 0;

/// `NFTNL_UDATA_SET_KEYBYTEORDER` with the machine's own order, by which `nft list` prints names of interfaces.
const HOST_BYTE_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

// From linux/netfilter/nfnetlink.h and nf_tables.h, in the width they have on the wire.
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_MSG_NEWGEN: u16 = 15;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_POSITION: u16 = 6;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFT_VERDICT_REGISTER: u32 = 0;

/// A type of set keys and data, by nft's numbers: they only matter to how `nft list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// An IPv4 address, 4 bytes.
    Ipv4Address,
    /// An IPv6 address, 16 bytes.
    Ipv6Address,
    /// A protocol number, 1 byte.
    Protocol,
    /// A port, 2 bytes.
    Port,
    /// An interface name, 16 bytes.
    InterfaceName,
}

impl DataType {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::InterfaceName => 41,
        }
    }

    /// The space it takes in registers.
    fn length(self) -> u32 {
        match self {
            Self::InterfaceName | Self::Ipv6Address => 16,
            _ => 4,
        }
    }
}

/// A set, or with data a map. Keys and data may be concatenations.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// Its name in the table.
    pub name: &'a str,
    /// What its keys consist of.
    pub key: &'a [DataType],
    /// What its data consist of; empty for a set.
    pub data: &'a [DataType],
}

/// An element: key and data as they stand in registers, each part padded to 4 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The data; empty in a set.
    pub data: Vec<u8>,
}

/// Where a base chain is hooked in.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// The point in a packet's way.
    pub point: HookPoint,
    /// The order among the chains of one point.
    pub priority: i32,
}

/// A point in a packet's way, `NF_INET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum HookPoint {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Where a rule goes within its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// To the end.
    End,
    /// Before the rule with this handle.
    Before(u64),
}

/// Changes that take effect together or not at all.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    sets: u32,
    family: Family,
}

impl Transaction {
    /// Nothing to change yet. The changes are to tables of `family` until [`Transaction::turn_to`] says otherwise.
    #[must_use]
    pub fn new(family: Family) -> Self {
        let mut batch = Batch::new();
        batch.push(NFNL_MSG_BATCH_BEGIN, 0, &batch_header(), |_| ());
        Self { batch, sets: 0, family }
    }

    /// What follows is about tables of this family.
    pub fn turn_to(&mut self, family: Family) {
        self.family = family;
    }

    /// Whether committing would change nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.count() < 2
    }

    /// Carries the changes out.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.is_empty() {
            return Ok(());
        }
        let last = self.batch.count() - 1;
        self.batch.push(NFNL_MSG_BATCH_END, 0, &batch_header(), |_| ());
        socket.execute_acknowledging(&mut self.batch, Some(last))
    }

    /// Makes sure that a table is there.
    pub fn add_table(&mut self, table: &str) {
        self.push(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, |attributes| {
            attributes.text(NFTA_TABLE_NAME, table);
        });
    }

    /// Makes a table; one of that name fails the transaction (`EXIST`).
    pub fn create_table(&mut self, table: &str) {
        self.push(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, |attributes| {
            attributes.text(NFTA_TABLE_NAME, table);
        });
    }

    /// Removes a table that is there, with all it holds. The kernel frees it later; whoever closes a netfilter socket before that
    /// waits for it, some 10 ms.
    pub fn delete_table(&mut self, table: &str) {
        self.push(NFT_MSG_DELTABLE, 0, |attributes| {
            attributes.text(NFTA_TABLE_NAME, table);
        });
    }

    /// Makes sure that a chain is there; with a hook it is a base chain whose policy is to accept.
    pub fn add_chain(&mut self, table: &str, chain: &str, hook: Option<Hook>) {
        self.push(NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |attributes| {
            attributes.text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, chain);
            if let Some(hook) = hook {
                attributes
                    .text(NFTA_CHAIN_TYPE, hook.kind)
                    .be32(NFTA_CHAIN_POLICY, libc::NF_ACCEPT.cast_unsigned())
                    .nested(NFTA_CHAIN_HOOK, |place| {
                        place
                            .be32(NFTA_HOOK_HOOKNUM, hook.point as u32)
                            .be32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
                    });
            }
        });
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, table: &str, chain: &str) {
        self.push(NFT_MSG_DELRULE, 0, |attributes| {
            attributes.text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
        });
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, table: &str, chain: &str, position: Position, rule: &Rule) {
        let append = if position == Position::End { libc::NLM_F_APPEND } else { 0 };
        self.push(NFT_MSG_NEWRULE, libc::NLM_F_CREATE | append, |attributes| {
            attributes.text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
            if let Position::Before(handle) = position {
                attributes.be64(NFTA_RULE_POSITION, handle);
            }
            attributes.nested(NFTA_RULE_EXPRESSIONS, |expressions| {
                expressions.raw(&rule.expressions);
            });
            if !rule.comment.is_empty() {
                attributes.bytes(NFTA_RULE_USERDATA, &comment_data(&rule.comment));
            }
        });
    }

    /// Removes the rule with this handle.
    pub fn delete_rule(&mut self, table: &str, chain: &str, handle: u64) {
        self.push(NFT_MSG_DELRULE, 0, |attributes| {
            attributes
                .text(NFTA_RULE_TABLE, table)
                .text(NFTA_RULE_CHAIN, chain)
                .be64(NFTA_RULE_HANDLE, handle);
        });
    }

    /// Makes sure that a set or map is there.
    pub fn add_set(&mut self, table: &str, set: &Set<'_>) {
        self.sets += 1;
        let id = self.sets;
        let kind = |types: &[DataType]| types.iter().fold(0, |sum, part| sum << 6 | part.number());
        let length = |types: &[DataType]| types.iter().map(|part| part.length()).sum();
        self.push(NFT_MSG_NEWSET, libc::NLM_F_CREATE, |attributes| {
            let map = if set.data.is_empty() { 0 } else { libc::NFT_SET_MAP.cast_unsigned() };
            attributes
                .text(NFTA_SET_TABLE, table)
                .text(NFTA_SET_NAME, set.name)
                .be32(NFTA_SET_FLAGS, map)
                .be32(NFTA_SET_KEY_TYPE, kind(set.key))
                .be32(NFTA_SET_KEY_LEN, length(set.key))
                .be32(NFTA_SET_ID, id);
            if set.key == [DataType::InterfaceName] {
                attributes.bytes(NFTA_SET_USERDATA, &HOST_BYTE_ORDER);
            }
            if map != 0 {
                attributes.be32(NFTA_SET_DATA_TYPE, kind(set.data)).be32(NFTA_SET_DATA_LEN, length(set.data));
            }
        });
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, table: &str, set: &str) {
        self.push(NFT_MSG_DELSETELEM, 0, |attributes| {
            attributes.text(NFTA_SET_ELEM_LIST_TABLE, table).text(NFTA_SET_ELEM_LIST_SET, set);
        });
    }

    /// Adds elements; one that is there with other data is an error.
    pub fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, table, set, elements);
    }

    /// Removes elements that are there.
    pub fn delete_elements(&mut self, table: &str, set: &str, elements: &[Element]) {
        self.elements(NFT_MSG_DELSETELEM, 0, table, set, elements);
    }

    fn elements(&mut self, message: u16, flags: i32, table: &str, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(message, flags, |attributes| {
                attributes.text(NFTA_SET_ELEM_LIST_TABLE, table).text(NFTA_SET_ELEM_LIST_SET, set).nested(
                    NFTA_SET_ELEM_LIST_ELEMENTS,
                    |list| {
                        for element in chunk {
                            list.nested(NFTA_LIST_ELEM, |item| write_element(item, element));
                        }
                    },
                );
            });
        }
    }

    fn push(&mut self, message: u16, flags: i32, attributes: impl FnOnce(&mut Attributes<'_>)) {
        self.batch.push(SUBSYSTEM | message, flags, &[self.family.number(), 0, 0, 0], attributes);
    }
}

fn write_element(item: &mut Attributes<'_>, element: &Element) {
    item.nested(NFTA_SET_ELEM_KEY, |key| {
        key.bytes(NFTA_DATA_VALUE, &element.key);
    });
    if !element.data.is_empty() {
        item.nested(NFTA_SET_ELEM_DATA, |data| {
            data.bytes(NFTA_DATA_VALUE, &element.data);
        });
    }
}

/// `struct nfgenmsg` of a batch's begin and end: the subsystem in network order.
fn batch_header() -> [u8; GENERAL] {
    let [high, low] = (SUBSYSTEM >> 8).to_be_bytes();
    [0, 0, high, low]
}

fn comment_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    let mut data = vec![COMMENT_TAG, length];
    data.extend(comment.bytes().take(usize::from(length) - 1));
    data.push(0);
    data
}

/// A register of four bytes, numbered from 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The kernel's number, `NFT_REG32_00` and following.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What `meta` can load.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Meta {
    InputInterfaceName = 6,
    OutputInterfaceName = 7,
    TransportProtocol = 16,
}

/// What `ct` can load.
#[derive(Debug, Clone, Copy)]
pub enum Conntrack {
    /// One bit of the `CONNTRACK_*` states.
    State = 0,
    /// The `IPS_*` bits.
    Status = 2,
}

/// Bits of [`Conntrack::State`].
pub mod state {
    /// The flow has seen packets in both directions, or belongs to one that has.
    pub const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
}

/// Bits of [`Conntrack::Status`].
pub mod status {
    /// The flow's destination was rewritten.
    pub const DESTINATION_NAT: u32 = 1 << 5;
}

/// Which header `payload` counts from.
#[derive(Debug, Clone, Copy)]
pub enum Header {
    /// The IP header.
    Network = 1,
    /// The TCP or UDP header.
    Transport = 2,
}

/// How `compare` compares.
#[derive(Debug, Clone, Copy)]
pub enum Comparison {
    /// The bytes are the same.
    Equal = 0,
    /// They differ.
    Different = 1,
}

/// How a packet's way through the chains goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// This base chain is done; others may still drop.
    Accept,
    /// The packet is gone.
    Drop,
    /// On in another chain, and back when that one ends.
    Jump(&'a str),
}

/// A rule under construction.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    expressions: Vec<u8>,
    comment: String,
}

impl Rule {
    /// No expression yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the comment by which people, and we, recognise the rule.
    #[must_use]
    pub fn comment(mut self, comment: &str) -> Self {
        comment.clone_into(&mut self.comment);
        self
    }

    /// Loads a fact about the packet's way.
    #[must_use]
    pub fn meta(self, fact: Meta, into: Register) -> Self {
        self.expression("meta", |meta| {
            meta.be32(2, fact as u32).be32(1, into.number());
        })
    }

    /// Loads a fact about the packet's flow.
    #[must_use]
    pub fn conntrack(self, fact: Conntrack, into: Register) -> Self {
        self.expression("ct", |ct| {
            ct.be32(2, fact as u32).be32(1, into.number());
        })
    }

    /// Loads bytes of the packet.
    #[must_use]
    pub fn payload(self, header: Header, offset: u32, length: u32, into: Register) -> Self {
        self.expression("payload", |payload| {
            payload.be32(1, into.number()).be32(2, header as u32).be32(3, offset).be32(4, length);
        })
    }

    /// Loads the type (`RTN_*`) of the packet's destination address.
    #[must_use]
    pub fn destination_type(self, into: Register) -> Self {
        const ADDRESS_TYPE: u32 = 3;
        const OF_DESTINATION: u32 = 1 << 1;
        self.expression("fib", |fib| {
            fib.be32(1, into.number()).be32(2, ADDRESS_TYPE).be32(3, OF_DESTINATION);
        })
    }

    /// Keeps only the bits of `mask`.
    #[must_use]
    pub fn mask(self, register: Register, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.expression("bitwise", |bitwise| {
            bitwise.be32(1, register.number()).be32(2, register.number()).be32(3, length);
            bitwise.nested(4, |data| {
                data.bytes(NFTA_DATA_VALUE, mask);
            });
            bitwise.nested(5, |data| {
                data.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]);
            });
        })
    }

    /// Goes on only if the comparison holds.
    #[must_use]
    pub fn compare(self, register: Register, comparison: Comparison, value: &[u8]) -> Self {
        self.expression("cmp", |compare| {
            compare.be32(1, register.number()).be32(2, comparison as u32);
            compare.nested(3, |data| {
                data.bytes(NFTA_DATA_VALUE, value);
            });
        })
    }

    /// Goes on only if the set lacks the key that begins at `key`.
    #[must_use]
    pub fn lookup_absent(self, set: &str, key: Register) -> Self {
        const INVERTED: u32 = 1;
        self.expression("lookup", |lookup| {
            lookup.text(1, set).be32(2, key.number()).be32(5, INVERTED);
        })
    }

    /// Loads a constant.
    #[must_use]
    pub fn constant(self, value: &[u8], into: Register) -> Self {
        self.expression("immediate", |immediate| {
            immediate.be32(1, into.number()).nested(NFTA_IMMEDIATE_DATA, |data| {
                data.bytes(NFTA_DATA_VALUE, value);
            });
        })
    }

    /// Goes on only if the set has the key that begins at `key`; a map's data is loaded from `data` on.
    #[must_use]
    pub fn lookup(self, set: &str, key: Register, data: Option<Register>) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, set).be32(2, key.number());
            if let Some(data) = data {
                lookup.be32(3, data.number());
            }
        })
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict<'_>) -> Self {
        const JUMP: u32 = (-3_i32).cast_unsigned();
        let (code, chain) = match verdict {
            Verdict::Accept => (libc::NF_ACCEPT.cast_unsigned(), None),
            Verdict::Drop => (libc::NF_DROP.cast_unsigned(), None),
            Verdict::Jump(chain) => (JUMP, Some(chain)),
        };
        self.expression("immediate", |immediate| {
            immediate.be32(1, NFT_VERDICT_REGISTER).nested(NFTA_IMMEDIATE_DATA, |data| {
                data.nested(NFTA_DATA_VERDICT, |verdict| {
                    verdict.be32(NFTA_VERDICT_CODE, code);
                    if let Some(chain) = chain {
                        verdict.text(NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        })
    }

    /// Rewrites the destination to the address of this family and the port that two registers hold.
    #[must_use]
    pub fn destination_nat(self, family: Family, address: Register, port: Register) -> Self {
        self.expression("nat", |nat| {
            nat.be32(1, libc::NFT_NAT_DNAT.cast_unsigned())
                .be32(2, family.number().into())
                .be32(3, address.number())
                .be32(5, port.number());
        })
    }

    /// Rewrites the source to an address of the interface by which the packet leaves.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", |_| ())
    }

    fn expression(mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> Self {
        standalone(&mut self.expressions).nested(NFTA_LIST_ELEM, |expression| {
            expression.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data);
        });
        self
    }
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// Its table's address family.
    pub family: Family,
    /// The table it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The point it is hooked in, if it is a base chain.
    pub hook: Option<u32>,
    /// Whether a base chain drops what no rule decides.
    pub drops: bool,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// The chain it is in.
    pub chain: String,
    /// Its handle.
    pub handle: u64,
    /// Its comment, empty without one.
    pub comment: String,
    /// Whether it decides about every packet, so that nothing after it counts.
    pub final_for_all: bool,
    /// The chain it goes to, under whatever condition.
    pub jumps_to: Option<String>,
}

/// A table's address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// `ip`.
    Ipv4,
    /// `ip6`.
    Ipv6,
    /// `inet`: IPv4 and IPv6.
    Inet,
    /// ARP, bridge, netdev; nothing is asked of the kernel about them.
    Other,
}

impl Family {
    /// The kernel's number, `NFPROTO_*`; that of "unspecified" for all others.
    fn number(self) -> u8 {
        let number = match self {
            Self::Ipv4 => libc::NFPROTO_IPV4,
            Self::Ipv6 => libc::NFPROTO_IPV6,
            Self::Inet => libc::NFPROTO_INET,
            Self::Other => libc::NFPROTO_UNSPEC,
        };
        u8::try_from(number).unwrap_or(0)
    }

    /// nft's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Inet => "inet",
            Self::Other => "other",
        }
    }
}

/// The chains of every table.
pub fn chains(socket: &mut Socket) -> Result<Vec<ChainInfo>, NetlinkError> {
    let request = |batch: &mut Batch| {
        let kind = SUBSYSTEM | NFT_MSG_GETCHAIN;
        batch.push(kind, libc::NLM_F_DUMP, &[0; GENERAL], |_| ());
    };
    socket.dump(request, |chains: &mut Vec<ChainInfo>, _, payload| chains.extend(parse_chain(payload)))
}

/// The rules of a table by chain, or of one chain of it, in order; none if there is no such table or chain.
pub fn rules(
    socket: &mut Socket,
    family: Family,
    table: &str,
    chain: Option<&str>,
) -> Result<Vec<RuleInfo>, NetlinkError> {
    let request = |batch: &mut Batch| {
        let kind = SUBSYSTEM | NFT_MSG_GETRULE;
        batch.push(kind, libc::NLM_F_DUMP, &[family.number(), 0, 0, 0], |attributes| {
            attributes.text(NFTA_RULE_TABLE, table);
            if let Some(chain) = chain {
                attributes.text(NFTA_RULE_CHAIN, chain);
            }
        });
    };
    let found = socket.dump(request, |rules: &mut Vec<RuleInfo>, _, payload| {
        // A kernel that doesn't know the filter sends the rules of every chain.
        let attributes = Parsed(payload.get(GENERAL..).unwrap_or_default());
        let named = |kind| attributes.find(kind).map(attribute::text);
        let of_chain = chain.is_none_or(|chain| named(NFTA_RULE_CHAIN) == Some(chain));
        if named(NFTA_RULE_TABLE) == Some(table) && of_chain {
            rules.extend(parse_rule(attributes));
        }
    });
    match found {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
        other => other,
    }
}

pub(super) fn parse_chain(payload: &[u8]) -> Option<ChainInfo> {
    let attributes = Parsed(payload.get(GENERAL..)?);
    let hook = attributes.nested(NFTA_CHAIN_HOOK).find(NFTA_HOOK_HOOKNUM).and_then(attribute::be32);
    let policy = attributes.find(NFTA_CHAIN_POLICY).and_then(attribute::be32);
    let family = match i32::from(payload[0]) {
        libc::NFPROTO_IPV4 => Family::Ipv4,
        libc::NFPROTO_IPV6 => Family::Ipv6,
        libc::NFPROTO_INET => Family::Inet,
        _ => Family::Other,
    };
    Some(ChainInfo {
        family,
        table: attribute::text(attributes.find(NFTA_CHAIN_TABLE)?).to_owned(),
        name: attribute::text(attributes.find(NFTA_CHAIN_NAME)?).to_owned(),
        hook,
        drops: policy == Some(libc::NF_DROP.cast_unsigned()),
    })
}

pub(super) fn parse_rule(attributes: Parsed<'_>) -> Option<RuleInfo> {
    Some(RuleInfo {
        chain: attribute::text(attributes.find(NFTA_RULE_CHAIN)?).to_owned(),
        handle: attribute::be64(attributes.find(NFTA_RULE_HANDLE)?)?,
        comment: attributes.find(NFTA_RULE_USERDATA).map(parse_comment).unwrap_or_default(),
        final_for_all: decides_everything(attributes.nested(NFTA_RULE_EXPRESSIONS)),
        jumps_to: jump(attributes.nested(NFTA_RULE_EXPRESSIONS)),
    })
}

/// The chain that a rule's verdict names.
fn jump(mut expressions: Parsed<'_>) -> Option<String> {
    expressions.find_map(|(_, expression)| {
        let data = Parsed(expression).nested(NFTA_EXPR_DATA);
        let verdict = data.nested(NFTA_IMMEDIATE_DATA).nested(NFTA_DATA_VERDICT);
        let name = Parsed(expression).find(NFTA_EXPR_NAME).map(attribute::text);
        let chain = verdict.find(NFTA_VERDICT_CHAIN).filter(|_| name == Some("immediate"))?;
        Some(attribute::text(chain).to_owned())
    })
}

fn parse_comment(mut data: &[u8]) -> String {
    while let [tag, length, rest @ ..] = data {
        let Some((content, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *tag == COMMENT_TAG {
            return attribute::text(content).to_owned();
        }
        data = rest;
    }
    String::new()
}

/// Whether a rule has no condition and a verdict that ends its chain. iptables-nft writes some of it as expressions
/// (`counter`, `immediate`) and some as its own modules (`target REJECT`, `match comment`).
pub(super) fn decides_everything(expressions: Parsed<'_>) -> bool {
    const MODULE_NAME: u16 = 1;
    let mut decides = false;
    if jump(expressions).is_some() {
        return false;
    }
    for (_, expression) in expressions {
        let expression = Parsed(expression);
        let name = expression.find(NFTA_EXPR_NAME).map(attribute::text).unwrap_or_default();
        let module = expression.nested(NFTA_EXPR_DATA).find(MODULE_NAME).map(attribute::text);
        match (name, module) {
            ("counter", _) | ("match", Some("comment")) => {}
            ("immediate" | "reject", _) | ("target", Some("REJECT")) => decides = true,
            _ => return false,
        }
    }
    decides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_back() {
        assert_eq!(parse_comment(&comment_data("palan: palan0")), "palan: palan0");
        assert_eq!(parse_comment(&[1, 2, 0, 0, 0, 3, b'a', b'b', 0]), "ab", "after another tag");
        assert_eq!(parse_comment(&[0, 9, b'a']), "", "cut short");
    }

    #[test]
    fn only_unconditional_verdicts_decide_everything() {
        let register = Register(0);
        let check =
            |rule: Rule, expected| assert_eq!(decides_everything(Parsed(&rule.expressions)), expected);
        check(Rule::new().verdict(Verdict::Drop), true);
        check(Rule::new().meta(Meta::InputInterfaceName, register).verdict(Verdict::Drop), false);
        check(Rule::new(), false);
        check(Rule::new().verdict(Verdict::Jump("elsewhere")), false);
    }
}
