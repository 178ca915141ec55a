"""All cases, by theme, in the order of the printed table."""

from __future__ import annotations

import faults_checkpoints
import faults_deaths
import faults_disk
import faults_exceptions
import faults_inputs
import faults_left_behind
import faults_locals
import faults_memory
import faults_results
import faults_session
import faults_source
import faults_stops
import faults_surroundings
import faults_texts
import faults_versions
from support.cases import Case

CATALOGUE: list[tuple[str, list[Case]]] = [
    ("exceptions", faults_exceptions.CASES),
    ("locals", faults_locals.CASES),
    ("texts", faults_texts.CASES),
    ("source lines", faults_source.CASES),
    ("death of Python", faults_deaths.CASES),
    ("memory", faults_memory.CASES),
    ("results", faults_results.CASES),
    ("inputs and Pythons", faults_inputs.CASES),
    ("versions", faults_versions.CASES),
    ("what the function does", faults_left_behind.CASES),
    ("surroundings", faults_surroundings.CASES),
    ("the conversation", faults_session.CASES),
    ("disk", faults_disk.CASES),
    ("stopping", faults_stops.CASES),
    ("checkpoints", faults_checkpoints.CASES),
]
