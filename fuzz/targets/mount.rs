//! Archives as they are mounted, whole and damaged, with questions of any kernel.
#![no_main]

use htmap_exec_fuzz::{Tree, directory};
use htmap_exec_transplant::fuzzing::{self, mount};
use libfuzzer_sys::{arbitrary, fuzz_target};

#[derive(Debug, arbitrary::Arbitrary)]
enum Ask<'a> {
    Attributes(Number),
    Child(Number, &'a [u8]),
    List(Number, Number),
    Target(Number),
    Read(Number, Number, u32),
    Package(u8),
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Number {
    Small(u8),
    Middle(u32),
    Any(u64),
}

impl Number {
    fn is(&self) -> u64 {
        match self {
            Self::Small(number) => u64::from(*number),
            Self::Middle(number) => u64::from(*number),
            Self::Any(number) => *number,
        }
    }
}

fn asked<'a>(ask: &Ask<'a>) -> fuzzing::Ask<'a> {
    match ask {
        Ask::Attributes(number) => fuzzing::Ask::Attributes(number.is()),
        Ask::Child(number, name) => fuzzing::Ask::Child(number.is(), name),
        Ask::List(number, offset) => fuzzing::Ask::List(number.is(), offset.is()),
        Ask::Target(number) => fuzzing::Ask::Target(number.is()),
        // The kernel asks for a mebibyte at most.
        Ask::Read(number, from, length) => {
            fuzzing::Ask::Read(number.is(), from.is(), length % (1 << 20))
        }
        Ask::Package(entry) => fuzzing::Ask::Package(usize::from(*entry)),
    }
}

fuzz_target!(|input: (Tree, Vec<(u32, u8)>, bool, Vec<Ask>)| {
    let (made, damage, stored, asks) = input;
    let asks: Vec<fuzzing::Ask> = asks.iter().map(asked).collect();
    mount(directory(), &made.made(), &damage, stored, &asks);
});
