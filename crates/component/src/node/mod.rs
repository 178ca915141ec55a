//! Facts about the execute node: host, address, user, clock.
//!
//! No name service is asked: it may hang, fail, or (in a static glibc binary) abort. HTCondor's
//! machine ad knows the host and its address already.

pub(crate) mod classad;
pub(crate) mod memory;
pub(crate) mod usage;

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::path::Path;

use jiff::civil::DateTime;

use crate::node::classad::ClassAd;
use crate::regular;

/// The first line of every component's stdout, and `node_info` of the error record.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    /// The name HTCondor has for the machine, else the kernel's.
    pub host: String,
    /// An address of the machine.
    pub address: String,
    /// When the component landed, UTC.
    pub landed: DateTime,
    /// Who it runs as.
    pub user: String,
}

/// The time now, UTC, in whole microseconds as Python's `datetime` has them.
pub(crate) fn now() -> DateTime {
    let now = jiff::Timestamp::now();
    jiff::tz::TimeZone::UTC.to_datetime(now)
}

/// As Python prints a `datetime`.
pub(crate) fn python_time(time: DateTime) -> String {
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.subsec_nanosecond() / 1000
    )
}

impl NodeFacts {
    /// Collects them.
    pub(crate) fn collect(machine_ad: &ClassAd) -> Self {
        let host = machine_ad
            .string("Machine")
            .or_else(|| nix::unistd::gethostname().ok()?.into_string().ok())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "localhost".to_owned());
        let address = machine_ad
            .string("MyAddress")
            .and_then(|sinful| sinful_address(&sinful))
            .or_else(interface_address)
            .unwrap_or_else(|| "127.0.0.1".to_owned());
        Self {
            host,
            address,
            landed: now(),
            user: user(),
        }
    }
}

impl fmt::Display for NodeFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            address,
            landed,
            user,
        } = self;
        write!(
            f,
            "Landed on execute node {host} ({address}) at {} as {user}",
            python_time(*landed)
        )
    }
}

/// The address in a "sinful string": `<10.0.0.1:9618?addrs=...>`.
fn sinful_address(sinful: &str) -> Option<String> {
    let inner = sinful.strip_prefix('<')?;
    let end = inner.find(['?', '>'])?;
    let (address, _port) = inner[..end].rsplit_once(':')?;
    let address = address.trim_matches(['[', ']']);
    address
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_string())
}

fn interface_address() -> Option<String> {
    let mut loopback = None;
    for interface in nix::ifaddrs::getifaddrs().ok()? {
        let Some(address) = interface.address.as_ref().and_then(|a| a.as_sockaddr_in()) else {
            continue;
        };
        let ip = address.ip();
        if ip.is_loopback() {
            loopback = Some(ip.to_string());
        } else {
            return Some(ip.to_string());
        }
    }
    loopback
}

/// As Python's `getpass.getuser`, but an unknown uid is a number instead of an error.
fn user() -> String {
    for name in ["LOGNAME", "USER", "LNAME", "USERNAME"] {
        if let Ok(user) = std::env::var(name)
            && !user.is_empty()
        {
            return user;
        }
    }
    account().unwrap_or_else(|| format!("uid {}", nix::unistd::geteuid()))
}

/// The account's name, if the node's own list of accounts has one. No name service is asked.
pub(crate) fn account() -> Option<String> {
    let uid = nix::unistd::geteuid().to_string();
    name_in(Path::new("/etc/passwd"), &uid)
}

/// An image may hold anything there.
fn name_in(passwd: &Path, uid: &str) -> Option<String> {
    const LARGEST: u64 = 16 << 20;
    const LONGEST_NAME: usize = 256;
    let file = regular::open_linked(passwd).ok()?.take(LARGEST);
    BufReader::new(file)
        .split(b'\n')
        .map_while(Result::ok)
        .find_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let found = fields.nth(1)? == uid.as_bytes() && name.len() <= LONGEST_NAME;
            found.then(|| String::from_utf8_lossy(name).into_owned())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sinful_strings() {
        let full = "<127.0.0.1:9618?addrs=127.0.0.1-9618&alias=x&noUDP&sock=startd_1>";
        assert_eq!(sinful_address(full).as_deref(), Some("127.0.0.1"));
        assert_eq!(sinful_address("<[::1]:9618>").as_deref(), Some("::1"));
        assert_eq!(sinful_address("garbage"), None);
        assert_eq!(sinful_address("<host.name:1>"), None);
    }

    #[test]
    fn looks_up_users_in_whatever_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let text = b"root:x:0:0::/:\nhalf:x\n\xff:x:7:7::/:\n:x:8:8::/:\nlast:x:9:9";
        std::fs::write(at("passwd"), text).unwrap();
        let name = |uid: &str| name_in(&at("passwd"), uid);
        assert_eq!(name("0").as_deref(), Some("root"));
        assert_eq!(name("7").as_deref(), Some("\u{fffd}"));
        assert_eq!((name("8"), name("1")), (None, None));
        assert_eq!(name("9").as_deref(), Some("last"));
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(name_in(&at("fifo"), "0"), None);
    }
}
