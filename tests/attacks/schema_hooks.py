"""What Schemathesis cannot know: raw bodies are pictures, whole ones and broken ones."""

import schemathesis
from hypothesis import strategies as st

from pictures import animation, picture

PICTURES = [
    picture(seed=700),
    picture("JPEG", seed=701),
    picture("WEBP", seed=702),
    picture("AVIF", seed=703),
    picture("TIFF", seed=704),
    animation(seed=705),
]
whole = st.sampled_from(PICTURES)
cut = st.builds(lambda data, at: data[:at], whole, st.integers(0, 400))

schemathesis.openapi.media_type("application/octet-stream", st.one_of(whole, whole, cut, st.binary()))
