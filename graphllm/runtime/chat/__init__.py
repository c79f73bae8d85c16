"""Dialogues: a chat template makes one text of the messages, the tokenizer ids of the text, an engine answers.

    format     messages to ids: what a model's template and tokenizer are together
    renderer   runs templates in a process of their own, which is ended when one does not come to an end
    sandbox    what runs there
    literal    names of special tokens that people write stay text
    named      templates known by name

Nothing is imported here: the process that runs templates loads this package, and must start fast.
"""
