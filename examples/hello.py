import missive

proc = missive.Processor()

@proc.handle_for(lambda message: True)  # match all messages
def hello_world(message: missive.Message, context: missive.HandlingContext) -> None:
    """Print 'Hello, World!' to stdin for each message"""
    print("Hello, World!")
    context.ack()  # acknowledge the message (a bit redundant for stdin)

adapted_proc = missive.adapters.StdinAdapter(proc)

if __name__ == "__main__":
    adapted_proc.run()
