"""How GLaMM is judged: masks of given answers, grounded captions, region captions."""
