//! Variables of another Python's doing, which reach a job from the submit machine or the node: with them
//! it would not be the delivered Python that runs, or not as it was delivered.

pub(crate) const FOREIGN: [&str; 10] = [
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "PYTHONEXECUTABLE",
    "PYTHONUSERBASE",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "CONDA_SHLVL",
    "CONDA_PYTHON_EXE",
];
