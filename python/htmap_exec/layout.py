"""Names inside a map directory: HTMap 0.6.1's, and the ones that htmap-exec adds to them."""

FUNC = "func"
INPUTS = "inputs"
OUTPUTS = "outputs"
LOGS = "logs"
OUTPUT_FILES = "output_files"
NUM_COMPONENTS = "num_components"

# Ours. The binary knows the names of all four.
RECORDS = "records"
SUBMIT_PYTHON = "submit_python"
CLOUDPICKLE = "_htmap_cloudpickle.zip"
SOURCE_LINES = "_htmap_source.json"
# What HTCondor takes back, and a directory of the map's that holds them empty.
OUTPUT_DIRECTORIES = ("_htmap_transfer", "_htmap_user_transfer")
SCRATCH = "scratch"
# Where the archive of a transplanted Python is: a path or an address, in a line.
TRANSPLANT = "transplant"
