//! Notes in the tree what of it names its place, for whoever puts it somewhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::collector::Collector;
use crate::archive::place::{EDITS, RECORD};
use crate::error::Error;
use crate::relocate::bytecode::is_of;
use crate::relocate::table::{edited_modules, edits};

impl Collector<'_> {
    /// When everything else is there. `named` is the prefix as the interpreter calls it.
    pub(super) fn note_edits(&mut self, named: &Path) -> Result<(), Error> {
        // Of a tree that was unpacked here: it has been edited by them.
        self.found.retain(|_, (entry, _)| {
            entry.path != EDITS.as_bytes() && entry.path != RECORD.as_bytes()
        });
        let found = &self.found;
        let files = || {
            let each = found.values();
            each.filter_map(|(entry, content)| Some((entry.path.as_slice(), content.as_ref()?)))
        };
        let edits = edits(&self.old, named, files(), &mut self.remarks)?;
        let modules = edited_modules(edits.as_ref(), files());
        self.found
            .retain(|_, (entry, _)| !is_of(Path::new(OsStr::from_bytes(&entry.path)), &modules));
        if let Some(edits) = edits {
            self.put_made(Path::new(EDITS), edits.encode());
        }
        Ok(())
    }
}
