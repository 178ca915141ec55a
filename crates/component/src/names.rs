//! Every name of HTMap 0.6.1's wire contract, and the names this project adds to it.
//!
//! HTMap's submit side lists some of these in `transfer_output_files`: they cannot change.

/// The pickled function, in the scratch directory.
pub const FUNC: &str = "func";
/// What HTCondor takes back, with a trailing slash: its content lands at the top level.
pub const TRANSFER_DIR: &str = "_htmap_transfer";
/// Output files lie in here, in a directory named by the component.
pub const USER_TRANSFER_DIR: &str = "_htmap_user_transfer";
/// The checkpoint being written.
pub const CHECKPOINT_PREP: &str = "_htmap_prep_checkpoint";
/// The checkpoint.
pub const CHECKPOINT_CURRENT: &str = "_htmap_current_checkpoint";
/// The checkpoint before it, for the moment between two renames.
pub const CHECKPOINT_OLD: &str = "_htmap_old_checkpoint";
/// Must exist for HTMap's (switched off) URL transfers.
pub const TRANSFER_PLUGIN_CACHE: &str = "_htmap_transfer_plugin_cache";
/// Must exist for HTMap's (switched off) URL transfers.
pub const TRANSFER_PLUGIN_MARKER: &str = "_htmap_do_output_transfer";

/// Ours: output files wait in here, in the transfer directory, until the output stands. HTCondor
/// brings them back under this name, which no input directory of the user's has.
pub const OUTPUT_FILES: &str = "_htmap_output_files";
/// Ours: everything at the top level that is nobody else's business begins so.
pub const PRIVATE_PREFIX: &str = ".htmap-exec-";
/// Ours: what other Pythons than the driver's import `htmap` from.
pub const MODULES_DIR: &str = ".htmap-exec-modules";
/// Ours: a checkpoint is put together here before its files move to their places.
pub const RESTORING: &str = ".htmap-exec-restoring";
/// Ours: directories that wait for their removal, where HTCondor does not take them back.
pub const DROPPED: &str = ".htmap-exec-dropped";
/// Ours: what a checkpoint generation consists of.
pub const CHECKPOINT_MANIFEST: &str = ".htmap-exec-manifest.json";
/// Ours: the submit side's cloudpickle, for nodes that have none.
pub const SHIPPED_CLOUDPICKLE: &str = "_htmap_cloudpickle.zip";
/// Ours: what the submit side tells of the code that it sent, for reports; `failure.py` reads it.
pub const SOURCE_LINES: &str = "_htmap_source.json";
/// Ours: a Python that was brought along is unpacked here, in the scratch directory.
pub const TRANSPLANT_DIR: &str = "_htmap_python";

/// Set to 1 for the function.
pub const ENV_ON_EXECUTE: &str = "HTMAP_ON_EXECUTE";
/// Set to the component's number for the function.
pub const ENV_COMPONENT: &str = "HTMAP_COMPONENT";
/// HTCondor's name for the scratch directory.
pub const ENV_SCRATCH: &str = "_CONDOR_SCRATCH_DIR";

/// First pickle of an output whose second one is the result.
pub const STATUS_OK: &str = "OK";
/// First pickle of an output whose second one is the error record.
pub const STATUS_ERR: &str = "ERR";
/// Only in the run record: there is no output, and the component runs again.
pub const STATUS_EVICTED: &str = "EVICTED";

/// Before the function's own prints.
pub const OUTPUT_START: &str = "----- MAP COMPONENT OUTPUT START -----";
/// After the function's own prints.
pub const OUTPUT_END: &str = "-----  MAP COMPONENT OUTPUT END  -----";
/// Before the traceback of a failed component.
pub const ERROR_START: &str = "-------  MAP COMPONENT ERROR  --------";
/// After it.
pub const ERROR_END: &str = "------ MAP COMPONENT ERROR END -------";
