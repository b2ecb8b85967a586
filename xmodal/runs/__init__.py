"""What the verbs of the command line do: lift, train, query, evaluate, demo."""
