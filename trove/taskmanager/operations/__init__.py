"""Operations as persisted steps, and the engine that runs them."""
