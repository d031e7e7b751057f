"""The word banks of the embedded world. All names of people, books, publishers and prizes are fictitious."""

from __future__ import annotations

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

COUNTRY_OF = {
    "Lisbon": "Portugal", "Oslo": "Norway", "Nairobi": "Kenya", "Kyoto": "Japan", "Lima": "Peru",
    "Cairo": "Egypt", "Dublin": "Ireland", "Hanoi": "Vietnam", "Prague": "Czechia", "Quito": "Ecuador",
    "Vienna": "Austria", "Accra": "Ghana", "Athens": "Greece", "Havana": "Cuba", "Helsinki": "Finland",
    "Santiago": "Chile", "Budapest": "Hungary", "Jakarta": "Indonesia", "Warsaw": "Poland", "Tunis": "Tunisia",
    "Mumbai": "India", "Toronto": "Canada", "Manila": "the Philippines", "Geneva": "Switzerland",
    "Istanbul": "Turkey", "Seville": "Spain", "Bogota": "Colombia", "Riga": "Latvia", "Dakar": "Senegal",
    "Reykjavik": "Iceland", "Melbourne": "Australia", "Naples": "Italy",
}  # fmt: skip
CITIES = tuple(COUNTRY_OF)

GENRES = (
    "mystery", "fantasy", "romance", "horror", "adventure", "satire", "historical fiction", "science fiction",
    "travel writing", "nature writing", "crime fiction", "war fiction", "magical realism", "fable",
    "gothic fiction", "sea stories",
)  # fmt: skip
OCCUPATIONS = (
    "baker", "nurse", "engineer", "tailor", "judge", "electrician", "farmer", "potter", "optician", "carpenter",
    "librarian", "miner", "architect", "florist", "plumber", "violinist", "accountant", "gardener", "sailor",
    "blacksmith", "teacher", "chemist", "interpreter", "mason", "beekeeper", "oboist", "locksmith", "dentist",
    "announcer", "weaver",
)  # fmt: skip
SUBJECTS = (
    "botany", "astronomy", "law", "geology", "music", "medicine", "philosophy", "economics", "chemistry",
    "archaeology", "mathematics", "linguistics", "zoology", "physics", "theology", "sculpture", "geography",
    "psychology",
)  # fmt: skip
HOBBIES = (
    "chess", "beekeeping", "rowing", "pottery", "birdwatching", "fencing", "gardening", "kite flying",
    "archery", "woodcarving", "sailing", "weaving", "climbing", "stargazing", "juggling", "fishing",
)  # fmt: skip
THEMES = (
    "winter storms at sea", "the folk songs of shepherds", "old railway stations", "the letters of sailors",
    "abandoned lighthouses", "the silence of deserts", "travelling circuses", "village markets", "river legends",
    "forgotten maps", "the lives of clockmakers", "mountain monasteries", "harbour towns at night",
    "childhood dreams", "the migration of birds", "stories told by miners",
)  # fmt: skip
LANGUAGES = (
    "French", "Spanish", "German", "Italian", "Polish", "Turkish", "Korean", "Swedish", "Arabic", "Hindi",
    "Greek", "Dutch", "Swahili", "Danish", "Bengali", "Hebrew",
)  # fmt: skip
AWARDS = (
    "Silver Quill Prize", "Amber Lantern Award", "Northern Page Medal", "Blue Heron Prize", "Golden Inkwell Award",
    "Open Harbour Prize", "Maple Leaf Book Medal", "Iron Nib Award", "Evening Star Prize", "Red Kite Medal",
    "Old Bridge Award", "Paper Crown Prize", "White Orchard Medal", "Glass Compass Award",
)  # fmt: skip

HOUSE_FIRST = (
    "Juniper", "Copperfield Lane", "Marigold", "Slate", "Tideway", "Hollow Oak", "Larkspur", "Pale Moon", "Ember",
    "Foxglove", "Ninth Street", "Windmill", "Brass Key", "Thistle", "Cobalt", "Meadowgate", "Saltmarsh", "Kestrel",
    "Orchard Hill", "Velvet Owl",
)  # fmt: skip
HOUSE_LAST = ("Press", "Books", "House", "Editions")

# People: a first name is a start and an end; a surname is two or three syllables and an ending.
FIRST_STARTS = (
    "Al", "Bel", "Cor", "Da", "El", "Fen", "Gal", "Hes", "Il", "Jo", "Kal", "Lu", "Mar", "Nel", "Or", "Pel", "Quin",
    "Ros", "Sel", "Tam", "Ul", "Ves", "Wil", "Yor", "Zan",
)  # fmt: skip
FIRST_ENDS = ("a", "an", "ina", "is", "o", "on", "eth", "iel", "ara", "ius", "en", "ila", "or", "essa", "win", "ric")
ONSETS = (
    "b", "br", "c", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z",
)  # fmt: skip
VOWELS = ("a", "e", "i", "o", "u", "ae", "ou", "ei")
ENDINGS = ("n", "l", "r", "nd", "sk", "ld", "rin", "dal", "mont", "vik", "ley", "ston", "va", "ro", "ssen", "quist")

TITLE_ADJECTIVES = (
    "Copper", "Quiet", "Hidden", "Crimson", "Distant", "Paper", "Frozen", "Broken", "Golden", "Hollow", "Restless",
    "Silver", "Burning", "Gentle", "Empty", "Last", "Wandering", "Secret", "Bitter", "Painted", "Sleeping", "Lonely",
    "Endless", "Shattered", "Patient", "Amber", "Stolen", "Velvet", "Drifting", "Iron", "Faded", "Luminous", "Ancient",
    "Fragile", "Scarlet", "Unwritten", "Northern", "Whispering", "Tangled", "Midnight",
)  # fmt: skip
TITLE_NOUNS = (
    "Lantern", "River", "Orchard", "Mirror", "Harbour", "Sparrow", "Clock", "Garden", "Bridge", "Compass", "Letter",
    "Island", "Candle", "Forest", "Window", "Anchor", "Crown", "Meadow", "Tower", "Violin", "Feather", "Valley",
    "Ladder", "Bell", "Desert", "Ribbon", "Station", "Wolf", "Staircase", "Ocean", "Needle", "Tunnel", "Market",
    "Raven", "Cradle", "Statue", "Chapel", "Engine", "Vineyard", "Archive", "Comet", "Glacier", "Key", "Well",
    "Almanac", "Ferry", "Mountain", "Shadow", "Teacup", "Umbrella",
)  # fmt: skip
TITLE_PATTERNS = (
    "The {adjective} {noun}",
    "{article} {adjective} {noun}",
    "Beyond the {adjective} {noun}",
    "Under the {adjective} {noun}",
    "The {noun} and the {other}",
    "The {adjective} {noun} and the {other}",
    "Return to the {adjective} {noun}",
    "Letters from the {adjective} {noun}",
)


def article(word: str) -> str:
    """Return "a" or "an" for a word of these banks, none of which starts with a silent h or a "yu" sound."""
    return "an" if word[0].lower() in "aeiou" else "a"


def with_article(word: str) -> str:
    """Return a word with its article: "an engineer", "a baker"."""
    return f"{article(word)} {word}"
