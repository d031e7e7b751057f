"""The words and turns of phrase of the story generator.

Slots: {hero} {friend} {rival} are names, {a_hero} a description ("a little girl"), {he} {him} {his} the hero's
pronouns, {He} {His} at the start of a sentence, {thing} the noun, {adj} the adjective, {verb} {verbed} the verb,
{place} a place ("the park"), {creature} an animal, {elder} a grown-up, {color} a colour.
"""

from __future__ import annotations

GIRLS = (
    "Lily", "Mia", "Anna", "Sue", "Lucy", "Ella", "Amy", "Zoe", "Nora", "Ruby", "Rose", "Emma", "Tina", "Kate", "Ivy",
    "Clara", "Molly", "Daisy", "Hanna", "Jill", "Lena", "Maya", "Nina", "Olga", "Penny", "Sara", "Tess", "Wendy",
)  # fmt: skip
BOYS = (
    "Tim", "Ben", "Tom", "Max", "Sam", "Jack", "Leo", "Bob", "Finn", "Noah", "Adam", "Carl", "Dan", "Eric", "Fred",
    "Greg", "Henry", "Ian", "Joe", "Kurt", "Luke", "Mark", "Nick", "Oscar", "Paul", "Ray", "Toby", "Will",
)  # fmt: skip
CREATURES = (
    "fox", "rabbit", "bear", "mouse", "duck", "frog", "owl", "cat", "dog", "squirrel", "turtle", "goat", "pony",
    "hedgehog", "otter", "lamb", "crow", "beaver", "mole", "swan",
)  # fmt: skip
TRAITS = (
    "little", "small", "young", "kind", "curious", "cheerful", "quiet", "brave", "clever", "shy", "playful", "gentle",
    "busy", "funny", "polite", "sleepy",
)  # fmt: skip
ELDERS = (
    "an old man", "an old woman", "a farmer", "a baker", "a sailor", "a teacher", "a gardener", "a shepherd",
    "a painter", "a tailor", "a fisherman", "a postman",
)  # fmt: skip
PLACES = (
    "the park", "the forest", "the garden", "the beach", "the river", "the meadow", "the village", "the hill",
    "the market", "the lake", "the barn", "the orchard", "the playground", "the yard", "the valley", "the harbour",
    "the school", "the field", "the pond", "the square",
)  # fmt: skip
THINGS = (
    "kite", "ball", "drum", "basket", "lamp", "boat", "hat", "shell", "key", "doll", "book", "bell", "cup", "scarf",
    "wagon", "flute", "mirror", "ring", "clock", "blanket", "balloon", "bucket", "coin", "crown", "feather", "box",
    "puppet", "sled", "spoon", "stone", "swing", "truck", "umbrella", "whistle", "apron", "candle", "map", "robot",
    "train", "vase",
)  # fmt: skip
ADJECTIVES = (
    "red", "shiny", "tiny", "old", "blue", "soft", "round", "heavy", "golden", "wooden", "pretty", "strange", "yellow",
    "smooth", "bright", "green", "light", "striped", "silver", "warm", "dusty", "lovely", "purple", "thick", "thin",
    "plain", "new", "special", "orange", "rare", "white", "painted",
)  # fmt: skip
COLORS = ("pink", "grey", "brown", "black", "violet", "gold", "pale", "dark")
VERBS = (
    ("run", "ran"), ("dance", "danced"), ("swim", "swam"), ("sing", "sang"), ("jump", "jumped"), ("paint", "painted"),
    ("dig", "dug"), ("climb", "climbed"), ("read", "read"), ("skip", "skipped"), ("draw", "drew"), ("hum", "hummed"),
    ("hop", "hopped"), ("spin", "spun"), ("march", "marched"), ("whistle", "whistled"), ("roll", "rolled"),
    ("slide", "slid"), ("hide", "hid"), ("explore", "explored"), ("clap", "clapped"), ("wander", "wandered"),
    ("cook", "cooked"), ("fish", "fished"), ("play", "played"), ("race", "raced"), ("sail", "sailed"),
    ("count", "counted"), ("rest", "rested"), ("write", "wrote"), ("build", "built"), ("gallop", "galloped"),
)  # fmt: skip

OPENINGS = (
    "Once upon a time, there was {a_hero} named {hero}.",
    "Once there was {a_hero} called {hero}.",
    "There once lived {a_hero} whose name was {hero}.",
    "In a house near {place} lived {a_hero} named {hero}.",
    "{hero} was {a_hero} who lived not far from {place}.",
    "Long ago, {a_hero} named {hero} lived close to {place}.",
)
HABITS = (
    "{hero} loved to {verb} all day long.",
    "Every morning {hero} {verbed} near {place}.",
    "More than anything, {he} liked to {verb} with {friend}.",
    "When the sun came up, {he} would {verb} until it was time to eat.",
    "{hero} {verbed} so much that everyone near {place} knew {him}.",
    "{He} and {friend} liked to {verb} near {place}.",
)
SCENERY = (
    "The sky was blue and the air was fresh.",
    "Birds were in the trees, and bees were in the flowers.",
    "It was a calm and ordinary morning.",
    "The grass was soft, and the path was dry.",
    "A light wind moved the leaves.",
    "People walked by with their bags and their bread.",
    "Smoke came out of the chimneys, and somewhere a dog was asleep.",
    "The streets were clean after the night.",
)

# Plots: (start), (middle), (good end), (bad end), (summary if good), (summary if bad).
PLOTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("One day, {hero} took {his} {adj} {thing} to {place}.",
         "On Monday, {hero} carried a {adj} {thing} all the way to {place}.",
         "{hero} had a {adj} {thing}, and one day {he} showed it to {friend} near {place}."),
        ("When {he} looked down, the {thing} was gone. {hero} and {friend} searched under every bush.",
         "{He} put it on a bench for a moment, and then it was missing. They looked behind the trees and in the grass.",
         "On the way it fell out of {his} bag. {hero} walked back slowly and looked left and right."),
        ("At last {friend} saw it behind a log. {hero} held the {thing} close.",
         "It was lying safe beside the path. {hero} picked up the {thing} and wiped it clean.",
         "A {creature} had kept it safe and gave it back."),
        ("They looked until dark, but the {thing} was never found.",
         "In the end {he} went home with empty hands.",
         "All they found was one broken piece of the {thing}."),
        ("{hero} loses a {adj} {thing} near {place} and finds it again.",
         "A lost {thing} is found with the help of {friend}."),
        ("{hero} loses a {adj} {thing} near {place} for good.", "A {thing} is lost, and nobody can find it."),
    ),
    (
        ("One day, {hero} wanted to build a house for a {adj} {thing}.",
         "{hero} made a plan to build a tower as high as a tree, with a {adj} {thing} on top.",
         "In {place}, {hero} began to build a bridge for {his} {adj} {thing}."),
        ("{He} brought wood, and {friend} brought nails. They worked for three days.",
         "First they put down big stones, then long sticks, and then the {thing}.",
         "It was slow work. {hero} measured, {friend} cut, and a {creature} watched."),
        ("When it was done, it stood straight and strong with the {thing} in the middle.",
         "The work held well, and everybody came to see it.",
         "It did not even shake when the wind came."),
        ("Then the whole thing fell over and crushed the {thing}.",
         "But it leaned, and cracked, and came down with a crash.",
         "The wood was rotten, and nothing was left of it but dust."),
        ("{hero} and {friend} build something fine for a {thing}.", "{hero} builds with wood and stones near {place}."),
        ("What {hero} builds for a {thing} falls down.", "{hero} and {friend} build, but it breaks."),
    ),
    (
        ("{friend} had a birthday soon, so {hero} looked for a {adj} {thing} near {place}.",
         "One day, {hero} wanted to give a {adj} {thing} to {friend}.",
         "{hero} saved coins for a month to buy a {adj} {thing} for {friend}."),
        ("{He} chose a {adj} {thing} and wrapped it in {color} paper.",
         "{hero} put the {thing} in a box and tied a {color} ribbon around it.",
         "{He} carried the {thing} past the shops and over the bridge to the house of {friend}."),
        ("{friend} opened it and jumped with joy.",
         "{friend} put the {thing} in the best place in the room.",
         "It was just what {friend} had wished for."),
        ("{friend} had moved away, and the house was empty.",
         "It dropped on the stones, and there were only pieces left to give.",
         "{friend} did not want it and shut the door."),
        ("{hero} gives a {adj} {thing} to {friend}.", "{friend} gets a present from {hero}."),
        ("{hero} cannot give the {thing} to {friend}.", "A present for {friend} goes wrong."),
    ),
    (
        ("One day, there was a big race around {place}. A {adj} {thing} waited for the winner.",
         "{hero} and {friend} joined a race for a {adj} {thing}, from {place} to the old oak.",
         "Each summer the animals and the children of {place} held a race. The prize was a {adj} {thing}."),
        ("Many wanted to win it. {hero} {verbed} every day to get ready.",
         "{hero} ran past the mill and the well, thinking of the {thing}.",
         "Halfway there, a {creature} fell into a ditch, and {hero} stopped to pull it out."),
        ("{hero} came in first and lifted the {thing} up high.",
         "They crossed the line together and shared the {thing}.",
         "{He} came in second, and the judges gave {him} the {thing} for a good heart."),
        ("{hero} hurt a foot and could not reach the end.",
         "{He} came in last, and there was no {thing} for {him}.",
         "Just before the line {he} fell and lost the {thing}."),
        ("{hero} does well in a race around {place}.", "A race near {place} brings {hero} a {thing}."),
        ("{hero} loses a race around {place}.", "A race goes badly, and {hero} gets no {thing}."),
    ),
    (
        ("One day, the {adj} {thing} of {hero} stopped working.",
         "{hero} had a {adj} {thing} from {elder}, but it had a crack.",
         "While {hero} {verbed}, {his} {adj} {thing} broke in two."),
        ("{He} took the {thing} to {elder} near {place}, who had many tools.",
         "{hero} and {friend} tried glue, and then string, and then tape.",
         "They sat down at a table and looked at every part of the {thing}."),
        ("After an hour the {thing} was as good as new.",
         "It even looked better than before.",
         "With one last turn of a screw, the {thing} was whole."),
        ("But the {thing} could not be mended, and they threw it away.",
         "The glue spoiled it, and the {thing} was ruined.",
         "It broke again into a hundred bits."),
        ("{hero} gets a broken {thing} mended.", "A {adj} {thing} breaks and is made whole."),
        ("A {thing} breaks and cannot be mended.", "{hero} tries to mend a {adj} {thing} and fails."),
    ),
    (
        ("One day, {hero} found a hurt {creature} near {place}.",
         "A {creature} was stuck in a fence by {place}, and {hero} heard it cry.",
         "In the morning {hero} saw a thin {creature} at the door."),
        ("{He} gave it water and laid it on a {adj} blanket beside a {thing}.",
         "{hero} put it into a basket with a {adj} {thing} and carried it home.",
         "{hero} and {friend} made a bed for it and let it sniff the {adj} {thing}."),
        ("In a week the {creature} could jump again.",
         "The {creature} grew strong and followed {hero} everywhere.",
         "Soon it ate from the hand of {hero} and slept well."),
        ("But the {creature} got weaker and did not wake up again.",
         "In the night it ran off into the cold, and they never saw it again.",
         "It was too late to save the {creature}."),
        ("{hero} helps a {creature}, and it gets well.", "A hurt {creature} is saved near {place}."),
        ("{hero} cannot save a {creature}.", "A {creature} is found near {place}, but it is lost."),
    ),
    (
        ("One day, {hero} and {friend} baked a cake in the shape of a {thing}.",
         "{hero} wanted to cook soup for everyone near {place}.",
         "For the feast near {place}, {hero} made a pie as big as a {thing}."),
        ("They stirred with a {adj} spoon and put a {thing} on the table.",
         "{He} put in apples and honey, and set the {adj} {thing} beside the pot.",
         "{friend} washed the plates while {hero} polished a {adj} {thing}."),
        ("It tasted wonderful, and nothing was left on the plates.",
         "Everybody asked for more.",
         "The smell brought all of {place} to the table."),
        ("It burned black, and they all went hungry.",
         "They had used salt for sugar, and no one could eat it.",
         "The pot tipped over, and all the food was wasted on the floor."),
        ("{hero} and {friend} make good food for {place}.", "There is a feast, and a {thing} is on the table."),
        ("The food that {hero} makes is spoiled.", "{hero} cooks for {place}, and it goes wrong."),
    ),
    (
        ("One day, {hero} put a seed in the ground near {place}.",
         "{elder} gave {hero} a {adj} seed that came in a {thing}.",
         "{hero} had a small garden with a {adj} {thing} in the middle."),
        ("{He} gave it water each day and put a {adj} {thing} next to it.",
         "Weeks went by. {hero} {verbed} near a {adj} {thing} and waited.",
         "{friend} built a little fence, and {hero} hung a {adj} {thing} on it."),
        ("A flower came up, tall and {color}, and all the bees loved it.",
         "It grew into a tree full of sweet plums.",
         "By autumn there was food for the whole village."),
        ("The plant dried up, and only a grey stick was left.",
         "Snails ate every leaf of it in one night.",
         "Nothing ever came out of the ground."),
        ("{hero} grows a plant near {place}.", "A seed grows well for {hero}."),
        ("The plant of {hero} dies.", "A seed does not grow for {hero}."),
    ),
    (
        ("One day, {hero} set out to visit {friend} on the other side of {place}.",
         "{hero} packed a {adj} {thing} and went on a long trip.",
         "There was a letter from {friend}, and {hero} left at once with a {adj} {thing}."),
        ("{He} crossed a bridge, walked around a swamp, and slept beside a {adj} {thing}.",
         "On the road {he} met {elder} and showed the {adj} {thing}.",
         "{hero} {verbed} along the road and held the {adj} {thing} tight."),
        ("In the evening {friend} stood at the gate and waved.",
         "{hero} got there in time for supper.",
         "At the end of the road there was a warm room and a soft bed."),
        ("{He} took the wrong road and spent the night alone in the cold.",
         "When {he} got there, {friend} was gone and had left no word.",
         "The bridge was out, and {hero} never got there."),
        ("{hero} makes a long trip to {friend}.", "{hero} travels past {place} with a {thing}."),
        ("{hero} gets lost on a trip to {friend}.", "A trip past {place} fails."),
    ),
    (
        ("One day, {hero} was to be in a show with a {adj} {thing}.",
         "There was a stage near {place}, and {hero} wanted to perform with a {adj} {thing}.",
         "{hero} and {friend} put on a play about a {adj} {thing}."),
        ("{He} put on a {color} coat and held up the {adj} {thing}. Many people sat down.",
         "{hero} {verbed} in the kitchen every night to learn the part with the {thing}.",
         "{friend} pulled the curtain, and there stood {hero} with the {thing}."),
        ("Everyone clapped for a long time.",
         "It went without a single mistake, and people threw flowers.",
         "They had to do it all over again, so much did the people like it."),
        ("{hero} forgot every word and ran off the stage.",
         "The curtain fell on {hero}, and people got up and left.",
         "No one clapped, and some people even booed."),
        ("{hero} performs near {place}, and people like it.", "A show with a {thing} goes well."),
        ("{hero} performs near {place}, and it goes wrong.", "A show with a {thing} fails."),
    ),
)  # fmt: skip

# Talks: (question), (answer), (the same in indirect speech).
TALKS = (
    ("Will you come with me, {friend}?", "Yes, I would love to.", "{hero} asked {friend} to come along."),
    ("What do you think of my {thing}?", "It is the best {thing} I know.", "{friend} liked the {thing} very much."),
    ("Are you tired already?", "No, let us go on a little more.", "Neither of them was tired yet."),
    ("Did you hear that noise?", "It was only a {creature}.", "They heard the noise of a {creature}."),
    ("Can you help me with this?", "Of course, that is what friends are for.", "{friend} was ready to help."),
    ("I have never seen {place} so full.", "Then hold my hand.", "They held hands because {place} was full."),
    ("Do you know the way?", "Follow me, I know it well.", "{friend} knew the way well."),
    ("May I try it too?", "Yes, but please be careful.", "They took turns and were careful."),
    ("Why is it so {adj}?", "I do not know. Maybe it is magic.", "They wondered why it was so {adj}."),
    ("We should be home by six.", "Then we have time enough.", "They had until six to be home."),
    ("Look over there!", "Oh, how nice!", "{hero} pointed at something nice far off."),
    ("I am a bit hungry.", "I have an apple for you.", "{friend} shared an apple with {hero}."),
)
SAID = ("said", "asked", "whispered", "called", "shouted")
REPLIED = ("answered", "replied", "said", "told {him}", "laughed")

# Hints: (early hint), (its meaning).
HINTS = (
    ("Far away, a black cloud was growing, but nobody paid any heed to it.",
     "Then the black cloud was overhead, and rain poured down on them all."),
    ("{hero} did not notice the small hole in {his} pocket. It would matter before the day was over.",
     "Now the hole in {his} pocket had done its work: {his} last coin had slipped out."),
    ("One plank of the bridge creaked in an odd way. {hero} thought no more about it for now.",
     "It was then that the creaking plank gave way, just as it had warned them."),
    ("Had {he} known what was waiting, {hero} would have stayed in bed.",
     "So this was what had been waiting for {him}: a flood across the only road home."),
    ("Little did {hero} know that someone was watching from the bushes.",
     "The one who had been watching from the bushes stepped out: it was a hungry wolf cub."),
    ("{elder_cap} had warned {him} that morning never to go near the old well.",
     "And there it was, the old well of the warning, and a shoe fell into it."),
    ("A crow cried three times, which is a sign of things to come.",
     "The three cries of the crow had meant this: a wind that took every hat away."),
    ("{hero} had a bad feeling about the ticking in the wall, as if it were counting down.",
     "All at once the ticking in the wall came to an end, and a pipe burst."),
    ("In a dream the night before, {he} had seen a falling tree.",
     "And then, just as in the dream, a tree came crashing down across the path."),
    ("{friend} left the gate open. Later they would all be sorry for that.",
     "Because of the open gate, the sheep were all over the road by now."),
)  # fmt: skip

# Conflicts.
CONFLICTS = (
    "But {rival} wanted the {thing} too. They pulled at it from both sides and shouted at each other.",
    "Then {hero} and {friend} had a quarrel. Each said the other was wrong, and they turned their backs.",
    "A mean {creature} blocked the way and would not let them pass without a fight.",
    "{rival} was jealous and tried to push {hero} into the mud. {hero} pushed back.",
    "{rival} called {hero} a thief, and {hero} called {rival} a liar. Both were red with anger.",
    "They argued about who should go first, and neither would give in.",
    "{rival} grabbed it and ran away, and {hero} chased {rival} through {place}, angry and out of breath.",
    "A gang of bullies led by {rival} made fun of {hero}, and it came to blows.",
    "{friend} wanted to stop, but {hero} refused, and soon they were yelling.",
    "{hero} and {rival} had been enemies for years, and now they stood face to face, fists up.",
)
CALM = (
    "They took their time and were nice to everyone they met.",
    "{rival} came by and waved to them.",
    "{hero} and {friend} went on side by side.",
    "A {creature} sat in the grass and looked at them with big eyes.",
    "It was warm, and there was no hurry.",
    "{rival} lent them a hand for a while.",
)

# Twists.
TWIST_STARTS = (
    "But that was not all.", "Then came a surprise.", "And now something nobody had guessed came to light.",
    "You will not believe what came next.", "Just then everything turned upside down.", "But wait!", "",
)  # fmt: skip
TWISTS = (
    "{hero} opened {his} eyes and was in bed: the whole day had been a dream.",
    "The {thing} began to talk! It had been a prince under a spell all along.",
    "{friend} took off a mask, and it was not {friend} at all but {rival}.",
    "It turned out that {elder} they had met was really the long-lost grandfather of {hero}.",
    "The {thing} had been in {his} own bag the whole time.",
    "What they had taken for a monster was in truth nothing but their own shadow.",
    "{rival} turned out to be the secret twin of {hero}.",
    "The {creature} stood up, bowed, and turned into a queen.",
    "As it turned out, {place} was only a painting, and they had been inside it all this time.",
    "It was {friend}, of all people, who had secretly planned everything from the beginning.",
    "{hero} looked into a puddle and found that {he} had never been a child, but a toy in a shop.",
    "The {thing} was in fact an egg, and out of it hatched a tiny dragon.",
)

HAPPY = (
    "{hero} went home with a big smile.",
    "That night {he} fell asleep happy.",
    "Everyone was glad, and they had a party.",
    "{hero} and {friend} hugged and laughed.",
    "It was the best day that {he} had ever had.",
    "And they all lived happily from then on.",
)
SAD = (
    "{hero} cried all the way home.",
    "That night {he} lay awake, sad and alone.",
    "Nobody came to comfort {him}, and it was dark.",
    "{hero} and {friend} were never friends again.",
    "It was the worst day that {he} had ever had.",
    "And {hero} never smiled near {place} again.",
)

MORALS = (
    "it is good to share", "a true friend is worth more than gold", "you should always tell the truth",
    "patience pays in the end", "kind words cost nothing", "you should look before you leap",
    "help is best when it comes from the heart", "pride comes before a fall", "hard work makes you strong",
    "one must keep a promise", "it is fine to ask for help", "small friends can be great friends",
    "we should not judge by looks", "those who listen learn more", "saying sorry takes courage",
    "no one should take what belongs to others",
)  # fmt: skip
MORAL_FRAMES = (
    "The moral of the story is that {moral}.",
    "{hero} learned that {moral}.",
    "From this we see that {moral}.",
    "And so {he} understood at last that {moral}.",
    "Remember, children: {moral}.",
    "Since that day {hero} has known that {moral}.",
)
