"""Everything on this machine: what `up` sets up on the embedded servers, and the demo that runs there."""
