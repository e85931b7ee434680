"""The losses of joint training: stateless functions on tensors, each with its paper.

Each is a mean over crops, and a crop's share depends on no other crop: the mean of a batch is that of its parts,
however processes and passes share it out.
"""
