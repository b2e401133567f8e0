"""``visionpipe bench``: what a model does on this machine through the real service, and what holds it back.

``command`` is what is typed; ``running`` and ``comparing`` measure; ``load`` asks through the client; ``bare`` is the
same model without a queue, in a process of its own; ``verdict`` does the sums; ``tables`` and ``plot`` show them.
"""
