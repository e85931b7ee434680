"""The losses of joint training: stateless functions on tensors, each with its paper."""
