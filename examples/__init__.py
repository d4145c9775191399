"""Programs beside the library: the demo's traffic is made here, and a gateway."""
