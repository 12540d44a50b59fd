"""The verb ``train classifier``: copied layers, a head, few labels."""
