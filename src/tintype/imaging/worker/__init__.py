"""What runs inside the cage: a process that decodes one image after the other, and can do nothing else.

It takes what it is handed, and its answers are believed by nobody. It imports neither the settings
nor anything that talks to the world.
"""
