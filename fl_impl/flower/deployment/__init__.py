"""A real deployment on this machine: SuperLink and SuperNodes as processes, over HTTP or HTTPS."""
