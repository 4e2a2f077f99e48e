//! Which language a text is in: by its script where only one of the languages here is written in it, and
//! else by frequent small words and by letters that the others do not have.
//!
//! Told apart are Arabic, Bengali, Bulgarian, Chinese, Dutch, English, Finnish, French, German, Greek,
//! Gujarati, Hebrew, Hindi, Italian, Japanese, Kannada, Korean, Malayalam, Marathi, Nepali, Persian,
//! Polish, Portuguese, Punjabi, Russian, Spanish, Swahili, Swedish, Tamil, Telugu, Thai, Turkish,
//! Ukrainian, Urdu and Vietnamese: those of IFEval and a few that are near them. A text in another
//! language is taken for the nearest of these, or for none. Sentences are told well, a few words without
//! any small word among them are not: five and more in plain Latin letters are taken for English.

/// A language, by its ISO 639-1 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Language(&'static str);

/// The language of `change_case`.
pub(super) const ENGLISH: Language = Language("en");

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that could be in a language.
    NoLetters,
    /// Scripts of which none is most of the text, or no word that is known.
    Unknown,
    /// The language.
    Language(Language),
}

impl Language {
    /// Returns the language with a code, where it can be told.
    pub fn of(code: &str) -> Option<Language> {
        Language::codes().into_iter().find(|known| *known == code).map(Language)
    }

    /// Returns the codes of all languages that can be told, in the order of the alphabet.
    pub fn codes() -> Vec<&'static str> {
        let mut codes: Vec<&str> = SCRIPTS
            .iter()
            .flat_map(|script| script.languages.iter().map(|language| language.code))
            .collect();
        codes.extend(["ja", "zh"]);
        codes.sort_unstable();
        codes
    }
}

/// Finds out the language of a text.
pub(super) fn detect(text: &str) -> Found {
    let lower = text.to_lowercase();
    let letters: Vec<char> = lower.chars().filter(|c| c.is_alphabetic()).collect();
    if letters.is_empty() {
        return Found::NoLetters;
    }
    let count = |of: &dyn Fn(char) -> bool| letters.iter().filter(|c| of(**c)).count();
    let most = |count: usize| 2 * count > letters.len();
    let kana = count(&|c| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}'));
    let han = count(&|c| matches!(c, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'));
    if most(kana + han) {
        // Japanese has some kana in nearly every phrase.
        return Found::Language(Language(if 20 * kana > kana + han { "ja" } else { "zh" }));
    }
    let script = SCRIPTS.iter().find(|script| most(count(&|c| script.has(c))));
    match script.map(|script| script.languages) {
        None => Found::Unknown,
        Some([only]) => Found::Language(Language(only.code)),
        Some(languages) => likeliest(&lower, languages),
    }
}

/// Words in plain Latin letters of which none is known that are taken for English.
const ENOUGH: usize = 5;

/// Returns the language with the most known words; of equals, the one that stands first.
fn likeliest(lower: &str, languages: &[Traits]) -> Found {
    let parts =
        lower.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '’' | '-' | '—' | '/'));
    let words: Vec<&str> =
        parts.map(|part| part.trim_matches(|c: char| !c.is_alphabetic())).collect();
    let score = |language: &Traits| {
        let known = |word: &&&str| language.words.split(' ').any(|known| known == **word);
        let marked = |word: &&&str| word.contains(|c| language.letters.contains(c));
        words.iter().filter(known).count() + words.iter().filter(marked).count()
    };
    let mut best: Option<(&Traits, usize)> = None;
    for language in languages {
        let score = score(language);
        if score > best.map_or(0, |(_, score)| score) {
            best = Some((language, score));
        }
    }
    let filled = words.iter().filter(|word| !word.is_empty()).count();
    match best {
        Some((language, _)) => Found::Language(Language(language.code)),
        None if filled >= ENOUGH && lower.chars().all(|c| !c.is_alphabetic() || c.is_ascii()) => {
            Found::Language(ENGLISH)
        }
        None => Found::Unknown,
    }
}

/// A script with the languages that are written in it.
struct Script {
    /// First and last letter of each range.
    ranges: &'static [(char, char)],
    languages: &'static [Traits],
}

impl Script {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&c))
    }
}

/// What tells a language from others in its script.
struct Traits {
    code: &'static str,
    /// Small words that are frequent, in small letters.
    words: &'static str,
    /// Letters that none of the others has.
    letters: &'static str,
}

const fn traits(code: &'static str, words: &'static str, letters: &'static str) -> Traits {
    Traits { code, words, letters }
}

const fn only(ranges: &'static [(char, char)], languages: &'static [Traits]) -> Script {
    Script { ranges, languages }
}

const SCRIPTS: [Script; 15] = [
    Script {
        ranges: &[('a', 'z'), ('\u{df}', '\u{24f}'), ('\u{1e00}', '\u{1eff}')],
        languages: &LATIN,
    },
    Script { ranges: &[('\u{400}', '\u{52f}')], languages: &CYRILLIC },
    Script {
        ranges: &[('\u{620}', '\u{6ff}'), ('\u{750}', '\u{77f}'), ('\u{fb50}', '\u{feff}')],
        languages: &ARABIC,
    },
    Script { ranges: &[('\u{900}', '\u{97f}')], languages: &DEVANAGARI },
    only(&[('\u{370}', '\u{3ff}'), ('\u{1f00}', '\u{1fff}')], &[traits("el", "", "")]),
    only(&[('\u{590}', '\u{5ff}')], &[traits("he", "", "")]),
    only(&[('\u{980}', '\u{9ff}')], &[traits("bn", "", "")]),
    only(&[('\u{a00}', '\u{a7f}')], &[traits("pa", "", "")]),
    only(&[('\u{a80}', '\u{aff}')], &[traits("gu", "", "")]),
    only(&[('\u{b80}', '\u{bff}')], &[traits("ta", "", "")]),
    only(&[('\u{c00}', '\u{c7f}')], &[traits("te", "", "")]),
    only(&[('\u{c80}', '\u{cff}')], &[traits("kn", "", "")]),
    only(&[('\u{d00}', '\u{d7f}')], &[traits("ml", "", "")]),
    only(&[('\u{e00}', '\u{e7f}')], &[traits("th", "", "")]),
    only(&[('\u{1100}', '\u{11ff}'), ('\u{ac00}', '\u{d7af}')], &[traits("ko", "", "")]),
];

const LATIN: [Traits; 13] = [
    traits(
        "en",
        "the of and to is that for with was are this you it be have not they from by at or we my your \
         which will would there their what can he she his her i in a on as but if so do",
        "",
    ),
    traits(
        "es",
        "el la los las de que y en un una es por con para su lo como más pero sus se del al este esta \
         muy también mi yo está son ser hay porque cuando",
        "ñ¿¡",
    ),
    traits(
        "pt",
        "o os as de que e em um uma é por com para não do da dos das no na nos nas se mais mas ao como \
         são ser muito também eu você isso está foi seu sua",
        "ãõ",
    ),
    traits(
        "fr",
        "le la les de des et en un une est que qui pour dans ce cette il elle je nous vous ne pas sur \
         avec au aux du sont plus par mais ou d l c s n j qu mon être très",
        "œ",
    ),
    traits(
        "de",
        "der die das und ist nicht ein eine einen zu den dem des mit von für auf sich es ich sie wir \
         auch im als wie aber oder an bei nach wird werden sind war hat aus dass",
        "ß",
    ),
    traits(
        "it",
        "il lo la gli le di che e è in un una per con non del della dei delle nel nella sono si come \
         più ma anche questo questa al alla da i mi ho ha molto perché",
        "",
    ),
    traits(
        "nl",
        "de het een en van is dat niet op te zijn voor met die er aan ook als maar om bij of uit naar \
         dan wat zo kan ik je hij ze we wij worden wordt heeft deze dit",
        "ĳ",
    ),
    traits(
        "pl",
        "i w na z do nie się że to jest o jak ale po co za od czy dla przez są tak tym jego jej już \
         być może oraz który które która",
        "łąęśźżćń",
    ),
    traits(
        "vi",
        "và của là có không một các được cho trong với những này đã người tôi bạn khi đến rất thì cũng \
         như ở từ về",
        "ơưđạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    ),
    traits(
        "sw",
        "na ya wa kwa ni za la katika cha kuwa hii yake si au lakini pia sana watu kama hiyo huo hivyo \
         vya yangu wako mimi wewe yeye sisi ili mtu",
        "",
    ),
    traits(
        "fi",
        "ja on ei se että hän oli ovat mutta kun niin myös tai kuin joka jos sen minä sinä me te he \
         hyvin voi ole olen olla tämä mitä vain",
        "",
    ),
    traits(
        "sv",
        "och det att är på som en ett för med av inte den jag han hon till var har de om så men vi kan \
         från eller mycket också",
        "å",
    ),
    traits(
        "tr",
        "ve bir bu için ile çok da de olarak daha ne ama gibi kadar ben sen olan var yok her mi mı \
         değil en sonra",
        "ğışİ",
    ),
];

const CYRILLIC: [Traits; 3] = [
    traits(
        "ru",
        "и в не на что с по это как он она я мы вы но из у за от так же для его был",
        "ыэё",
    ),
    traits(
        "uk",
        "і в не на що з по це як він вона я ми ви але із у за від так для його був та є",
        "іїєґ",
    ),
    traits(
        "bg",
        "и в не на че с по това как той тя аз ние вие но от за да се са е ще като много си",
        "",
    ),
];

const ARABIC: [Traits; 3] = [
    traits("ar", "في من على أن إلى هذا هذه التي الذي ما لا هو هي مع كان عن أو كل ذلك", "ةأإىيك"),
    traits("fa", "و در به از که این را است با برای آن یک می های هم تا بر شود", "پژ"),
    traits("ur", "کے میں کی ہے اور سے کا کو یہ نے پر ہیں کہ ایک نہیں بھی تھا", "ٹڈڑںےھہ"),
];

const DEVANAGARI: [Traits; 3] = [
    traits("hi", "है और के में की का को से हैं यह नहीं पर एक हम मैं आप भी था कि लिए तो", ""),
    traits("mr", "आहे आणि या नाही मी ते हे तो ती आहेत होते च्या मध्ये साठी करा आपण तर पण होता", "ळ"),
    traits("ne", "छ र को मा हो यो छन् गर्न पनि लागि म हुन्छ भने तपाईं गर्नुहोस् थियो छैन एउटा", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told() {
        let check = |code: &'static str, text: &str| {
            assert_eq!(detect(text), Found::Language(Language(code)), "{text}");
            let upper = text.to_uppercase();
            assert_eq!(detect(&upper), Found::Language(Language(code)), "{upper}");
        };
        check("en", "The weather is fine today, and we will go to the sea.");
        check("es", "El perro de mi vecino duerme en la cocina.");
        check("pt", "O cachorro do meu vizinho não dorme na cozinha.");
        check("fr", "Le chien de mon voisin dort dans la cuisine.");
        check("de", "Der Hund meines Nachbarn schläft nicht in der Küche.");
        check("it", "Il cane del mio vicino non dorme nella cucina.");
        check("nl", "De hond van mijn buurman slaapt niet in het huis.");
        check("pl", "Pies mojego sąsiada nie śpi w kuchni.");
        check("vi", "Con chó của tôi không ngủ trong bếp.");
        check("sw", "Mbwa wa jirani yangu analala katika jikoni.");
        check("fi", "Naapurin koira ei nuku keittiössä, mutta se on iloinen.");
        check("sv", "Grannens hund sover inte i köket, men den är glad.");
        check("tr", "Komşumun köpeği mutfakta değil, bahçede ve çok mutlu.");
        check("ru", "Собака моего соседа не спит на кухне, это странно.");
        check("uk", "Собака мого сусіда не спить на кухні, це дивно.");
        check("bg", "Кучето на моя съсед не спи в кухнята, това е странно.");
        check("ar", "كلب جاري لا ينام في المطبخ.");
        check("fa", "سگ همسایه در آشپزخانه است و این را می‌داند.");
        check("ur", "میرے پڑوسی کا کتا باورچی خانے میں سوتا ہے۔");
        check("hi", "मेरे पड़ोसी का कुत्ता रसोई में सोता है।");
        check("mr", "माझ्या शेजाऱ्याचा कुत्रा घरात झोपलेला आहे आणि तो आनंदी आहे.");
        check("ne", "मेरो छिमेकीको कुकुर घर भित्र छ र यो खुसी छ।");
        check("el", "Ο σκύλος κοιμάται στην κουζίνα.");
        check("he", "הכלב של השכן ישן במטבח.");
        check("bn", "প্রতিবেশীর কুকুর রান্নাঘরে ঘুমায়।");
        check("pa", "ਗੁਆਂਢੀ ਦਾ ਕੁੱਤਾ ਰਸੋਈ ਵਿੱਚ ਸੌਂਦਾ ਹੈ।");
        check("gu", "પાડોશીનો કૂતરો રસોડામાં સૂવે છે.");
        check("ta", "அண்டை வீட்டு நாய் சமையலறையில் தூங்குகிறது.");
        check("te", "పొరుగువారి కుక్క వంటగదిలో నిద్రపోతుంది.");
        check("kn", "ನೆರೆಯವರ ನಾಯಿ ಅಡುಗೆಮನೆಯಲ್ಲಿ ಮಲಗುತ್ತದೆ.");
        check("ml", "അയൽക്കാരന്റെ നായ അടുക്കളയിൽ ഉറങ്ങുന്നു.");
        check("th", "สุนัขของเพื่อนบ้านนอนในครัว");
        check("ko", "이웃집 개가 부엌에서 잔다.");
        check("ja", "隣の犬は台所で寝ています。");
        check("zh", "邻居的狗在厨房里睡觉。");
    }

    #[test]
    fn what_is_no_text_is_in_no_language() {
        assert_eq!(detect("12 + 3 = 15 🦀"), Found::NoLetters);
        assert_eq!(detect(""), Found::NoLetters);
        assert_eq!(detect("xyzzy"), Found::Unknown);
        assert_eq!(detect("quiet moon, silent night, frost"), Found::Language(ENGLISH));
        // As many letters of each script.
        assert_eq!(detect("dog собака cat"), Found::Unknown);
    }

    #[test]
    fn codes_are_unique_and_known() {
        let codes = Language::codes();
        assert_eq!(codes.len(), 35);
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Language::of("en"), Some(ENGLISH));
        assert_eq!(Language::of("xx"), None);
    }
}
