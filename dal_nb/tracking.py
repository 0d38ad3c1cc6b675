from contextlib import contextmanager
class T:
    def log(self, step, values): pass
@contextmanager
def open_tracker(name, path, config): yield T()
