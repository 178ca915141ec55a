# What programs in this container find in their environment under Apptainer. Yours goes here.
# Docker's ENV does not reach a container that was made from an unpacked image, as on /cvmfs.

# Before HTCondor's variables, and before PATH is complete: a job without a PATH of its own has this one.
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
if [ -d /opt/conda/bin ]; then
    PATH=/opt/conda/bin:$PATH
fi
if [ -d /opt/python/bin ]; then
    PATH=/opt/python/bin:$PATH
fi
if [ -d /opt/python/lib/htmap-exec ]; then
    LD_LIBRARY_PATH=/opt/python/lib/htmap-exec${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
fi
export PATH
