# Apptainer sets what HTCondor passes on (`_CONDOR_*`, `_CHIRP_*`) right after it has read a file of this
# name, and not at all where there is none.

# Where `--nv` and `--rocm` put the node's libraries.
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs
export LD_LIBRARY_PATH
