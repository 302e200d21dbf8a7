"""The test vectors of docs/artefact.md."""

import json
import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "artefact.md").read_text(encoding="utf-8")
VECTORS = json.loads(re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])
STREAM = (int(VECTORS["stream"]["seed"], 16), VECTORS["stream"]["purpose"], VECTORS["stream"]["layer"])
