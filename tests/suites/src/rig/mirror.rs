//! A world of both families: whoever has an IPv4 address has an IPv6 address, too, which follows from it. So one table of worlds and packets serves both.
//!
//! Tunnels between nodes are left as they are.

use std::fmt::Debug;

use aya::Pod;
use aya::maps::LpmTrie;
use aya::maps::lpm_trie::Key;
use mesh_common::schema::*;

use super::Rig;
use super::family::trie_key;

/// What IPv6 addresses of a mirrored world begin with.
const PREFIX: u8 = 0xfd;
const PREFIX_LEN: u32 = 96;

/// The IPv6 address of who has this IPv4 address. No address stays none, and multicast stays multicast.
pub const fn six(addr: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = addr;
    let first = match a {
        0 => 0,
        224.. => 0xff,
        _ => PREFIX,
    };
    [first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// The IPv4 address of who has this IPv6 address.
pub const fn four(addr: [u8; 16]) -> [u8; 4] {
    [addr[12], addr[13], addr[14], addr[15]]
}

impl Rig {
    /// What the maps say of IPv4 is said of IPv6 as well, and of nothing else.
    pub fn mirror(&mut self) {
        self.unmirror();
        for (addr, it) in self.all::<[u8; 4], Address>("ADDRESSES4") {
            self.put("ADDRESSES6", six(addr), it);
        }
        for (addr, it) in self.all::<[u8; 4], Endpoint<[u8; 4]>>("ENDPOINTS4") {
            let prefix_len = it.prefix_len + PREFIX_LEN as u8;
            self.put("ENDPOINTS6", six(addr), Endpoint { prefix_len, ..it.with(six) });
        }
        for (key, it) in self.all::<FrontendKey<[u8; 4]>, Frontend<[u8; 4]>>("FRONTENDS4") {
            let FrontendKey { addr, port, protocol, .. } = key;
            let key = FrontendKey { port, protocol, ..FrontendKey::vip(six(addr)) };
            self.put("FRONTENDS6", key, it.with(six));
        }
        for (key, it) in self.all::<AffinityKey<[u8; 4]>, Affinity>("AFFINITY4") {
            self.put("AFFINITY6", AffinityKey { addr: six(key.addr), pool: key.pool }, it);
        }
        for (number, it) in self.all::<u32, Backend>("BACKENDS") {
            self.put("BACKENDS", number, Backend { addr6: six(it.addr4), ..it });
        }
        for (link, it) in self.all::<u32, Uplink>("UPLINKS") {
            self.put("UPLINKS", link, Uplink { addr6: six(it.addr4), ..it });
        }
        let lists: Vec<_> = self.lists().keys().collect::<Result<_, _>>().expect("the lists are read");
        for key in lists {
            let AllowKey { pool, list, addr } = key.data();
            let of = AllowKey { pool, list, addr: six(addr) };
            let key = Key::new(key.prefix_len() + PREFIX_LEN, of);
            self.lists6().insert(&key, 1u32, 0).expect("the list takes it");
        }
    }

    /// Nobody has an IPv6 address.
    pub(super) fn unmirror(&mut self) {
        self.wipe(&["ADDRESSES6", "ENDPOINTS6", "FRONTENDS6", "AFFINITY6", "ALLOW6", "FLOWS6", "FRAGMENTS6"]);
    }

    /// A list of callers has this prefix.
    pub fn allow6(&mut self, prefix: AllowPrefix<[u8; 16]>) {
        self.lists6().insert(&trie_key(prefix), 1u32, 0).expect("the list takes it");
    }

    /// The lists of IPv6.
    pub(super) fn lists6(&mut self) -> LpmTrie<&mut aya::maps::MapData, AllowKey<[u8; 16]>, u32> {
        LpmTrie::try_from(self.ebpf.map_mut("ALLOW6").expect("the object has this map")).expect("its key and value fit")
    }

    /// Every entry of a hash map.
    pub(super) fn all<K: Pod, V: Pod + Debug>(&self, name: &str) -> Vec<(K, V)> {
        let map = self.read::<K, V>(name);
        map.iter().map(|entry| entry.unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
    }
}
