"""The second door: jobs that come from a Tangle service instead of HTTP.

Needs the extra `tangle`. `abi/` holds the generated ABIs and creation code of our contracts.
"""
