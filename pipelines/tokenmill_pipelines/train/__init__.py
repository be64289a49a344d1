"""``tokenmill train``: small reference generators that learn from a store's tokens.

They prove that a feed trains: a causal and a masked transformer, data parallel over Ray Train,
resumed on any number of workers. Read `transformer`, `generators` and `loop`, in this order.
"""
